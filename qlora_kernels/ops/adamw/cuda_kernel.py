"""AdamW on NVIDIA GPUs: one CUDA launch for all segments, their norm included; nobody waits."""

from collections.abc import Sequence
from itertools import accumulate
from math import inf

import torch

from qlora_kernels.formats.blockwise8 import num_blocks
from qlora_kernels.gpu import cuda_module
from qlora_kernels.gpu.arrivals import arrivals
from qlora_kernels.ops.adamw.cuda_codes import state_tables
from qlora_kernels.ops.adamw.segment import (
    PARAMETER_DTYPES,
    Gate,
    Guard,
    Hyperparameters,
    Segment,
)
from qlora_kernels.ops.adamw.triton_table import addresses, on_device

BACKEND = "cuda"


def refuses(*arguments: Sequence[torch.Tensor]) -> str | None:
    """Takes everything on an NVIDIA GPU; the last argument is the list of gradients."""
    gradients = arguments[-1]
    return cuda_module.misplaced("a gradient", gradients[0]) if gradients else None


def adamw_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """The formula of op.py, for all segments at once."""
    with cuda_module.stream_of(gate.scale) as stream:
        _launch(segments, gradients, hyper, [gate.scale.data_ptr(), gate.skip.data_ptr()], stream)


def guarded_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    guard: Guard,
) -> Gate:
    """What the gradients say, the step, and its count: one launch, whose blocks meet half way."""
    device = segments[0].device
    found = torch.empty(3, device=device)
    given = [None if t is None else t.to(device, torch.float32) for t in guard[1:]]
    with cuda_module.stream_of(found) as stream:
        partial = _partial(device)
        places = [0 if t is None else t.data_ptr() for t in given]
        places += [partial.data_ptr(), arrivals(1, device, stream).data_ptr(), found.data_ptr()]
        max_norm = inf if guard.max_norm is None else guard.max_norm
        _launch(segments, gradients, hyper, (max_norm, places), stream)
    return Gate(*found.unbind())


def squared_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares, float64 []: finite exactly where every gradient is."""
    device = gradients[0].device
    blocks = [num_blocks(gradient.numel()) for gradient in gradients]
    rows = [
        (0, gradient.data_ptr(), *[0] * 6, gradient.numel(), start, dtype | dtype << 8)
        for gradient, start in zip(gradients, accumulate(blocks, initial=0), strict=False)
        for dtype in (PARAMETER_DTYPES.index(gradient.dtype),)
    ]
    squared = torch.empty((), dtype=torch.float64, device=device)
    with cuda_module.stream_of(squared) as stream:
        partial = _partial(device)
        shared = [partial.data_ptr(), arrivals(1, device, stream).data_ptr()]
        table = on_device(rows, torch.int64, device)
        places = [table.data_ptr(), *shared, squared.data_ptr()]
        cuda_module.kernels().squared_norm(places, len(rows), sum(blocks), stream)
    return squared


def _partial(device: torch.device) -> torch.Tensor:
    """A sum of each thread block; CUDA tells their number of the current device."""
    blocks = cuda_module.kernels().adamw_thread_blocks()
    return torch.empty(blocks, dtype=torch.float64, device=device)


def _launch(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: list[int] | tuple[float, list[int]],
    stream: int,
) -> None:
    device = segments[0].device
    blocks = [num_blocks(segment.size) for segment in segments]
    starts = accumulate(blocks, initial=0)
    work = zip(segments, gradients, starts, strict=False)  # the last start is the end of all
    rows = [
        (*addresses(segment, gradient), segment.size, start, _types(segment, gradient))
        for segment, gradient, start in work
    ]
    tables = (
        on_device(rows, torch.int64, device),
        on_device([tuple(h) for h in hyper], torch.float64, device),
        state_tables(device),
    )
    cuda_module.kernels().adamw_step(
        [table.data_ptr() for table in tables], len(rows), sum(blocks), gate, stream
    )


def _types(segment: Segment, gradient: torch.Tensor) -> int:
    """The dtypes as csrc/common/element.h numbers them, eight bits each."""
    parameter, other = map(PARAMETER_DTYPES.index, (segment.parameter.dtype, gradient.dtype))
    return parameter | other << 8
