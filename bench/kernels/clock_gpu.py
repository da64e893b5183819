"""GPU times: a captured graph between two events, after the second-level cache was flushed.

The flush runs on the GPU while the host records what follows, so a launch that takes the host long
does not show, unless the contender cannot be captured and takes longer than the flush.
"""

from collections.abc import Callable

import torch

from bench.kernels.case import Contender
from bench.kernels.clock import Stopwatch

FLUSH_BYTES = 1 << 28  # larger than any second-level cache; about 0.1 ms to write


def gpu_stopwatch(contender: Contender) -> Stopwatch:
    """One call per round, the next copy of the inputs each time."""
    launches = [_captured(call) for call in contender.calls]
    flush = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    position = 0

    def sample() -> float:
        nonlocal position
        launch = launches[position % len(launches)]
        position += 1
        flush.zero_()
        begin.record()
        launch()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    return sample


def _captured(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a graph's replay; as it is where it synchronizes, which a graph cannot hold."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            kept = call()
    except RuntimeError:
        torch.cuda.synchronize()
        return call

    def replay(outputs: object = kept) -> None:
        """`outputs` keeps alive what the graph writes to."""
        graph.replay()

    return replay
