"""What the watch costs: the seconds that it spends within the steps of a run, over theirs.

The steps are those of `make demo` (4 rows of 128 tokens, rank 16 on every layer), and the watch's
window is full. Its parts are timed where they run, so that they find the caches as training leaves
them. The preflight's price, paid once, is told beside it.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qlora.guard.preflight.check import preflight
from qlora.guard.watch.window import WINDOW
from qlora.provenance import provenance
from qlora.train import step as step_module
from qlora.train.prepare import prepare
from qlora.train.resume import find_place
from qlora.train.run import Run
from qlora.train.settings import TrainSettings
from qlora.train.state import TrainState
from qlora_kernels.files import write_text

HELP = "the watch's share of a training step, on the demo's model and shapes"
PACKAGES = ("qlora_kernels", "torch", "transformers")
MOST = 0.01  # of a step; the project's law for the watch
WARM_UP = 2  # steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = Path("build/models/smollm2-135m-instruct")
    parser.add_argument("--model", type=Path, default=model, help="a model folder or .gguf file")
    parser.add_argument("--data", type=Path, default=Path("tests/fixtures/sonnets.txt"))
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--output", type=Path, help="file for the record, as JSON")


def run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        training, state = _prepare(arguments, Path(folder))
        cost = preflight(training, state).seconds
        steps, watch = measure(training, state, arguments.steps)
    shares = [part / whole for part, whole in zip(watch, steps, strict=True)]
    share = statistics.median(shares)
    record: dict[str, Any] = {
        **provenance(PACKAGES),
        "model": arguments.model.name,
        "steps": arguments.steps,
        "step_ms": 1000 * statistics.median(steps),
        "watch_ms": 1000 * statistics.median(watch),
        "share": share,
        "share_p80": sorted(shares)[int(0.8 * len(shares))],
        "preflight_steps": cost / statistics.median(steps),
    }
    print(
        f"watch {record['watch_ms']:.2f} ms of a step of {record['step_ms']:.0f} ms: {share:.2%}"
        f" (at most {MOST:.0%}); preflight, once: {record['preflight_steps']:.1f} steps"
    )
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(record, indent=2) + "\n")
    return 0 if share <= MOST else 1


def measure(training: Run, state: TrainState, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each step, and of the watch within it."""
    window = [3.0 + 0.01 * (i % 7) for i in range(WINDOW)]
    state.watched.losses, state.watched.gradient_norms = list(window), list(window)
    stopwatch = Stopwatch()
    watched, meter = state.watched, training.update_meter
    for owner, name in (
        *((watched, name) for name in ("read", "note")),
        *((meter, name) for name in ("sample", "ratio_since")),
        *((step_module, name) for name in ("judge", "act_on")),
    ):
        setattr(owner, name, stopwatch.timed(getattr(owner, name)))
    steps, watch = [], []
    for _ in range(WARM_UP + count):
        stopwatch.seconds = 0.0
        start = time.perf_counter()
        step_module.take_step(training, state)
        steps.append(time.perf_counter() - start)
        watch.append(stopwatch.seconds)
    return steps[WARM_UP:], watch[WARM_UP:]


class Stopwatch:
    """Adds up the seconds of the calls that go through it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def _prepare(arguments: argparse.Namespace, folder: Path) -> tuple[Run, TrainState]:
    settings = TrainSettings(
        model=arguments.model,
        data=arguments.data,
        output=folder / "run",
        sequence_length=128,
        batch_size=4,
        learning_rate=1e-3,
        steps=max(100, WARM_UP + arguments.steps),
    )
    training, state, _ = prepare(settings, find_place(settings))
    return training, state
