"""The preflight of a run: its checks, its price, and what it says."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from qlora.guard.preflight.gradients import Received, refuse_missing
from qlora.guard.preflight.labels import Labels
from qlora.guard.preflight.memory import Need, Usage
from qlora.guard.watch.watched import HELD, START
from qlora.objective import loss_sum, supervise
from qlora.train import randomness
from qlora.train.memory import counting_kept
from qlora.train.optimizer import states_to_come
from qlora.train.run import Rows, Run
from qlora.train.state import TrainState
from qlora_kernels.errors import InputError
from qlora_kernels.nn.token_rows import TokenRows

TRIES = 4  # forward passes in which each parameter gets a chance of a gradient


@dataclass(frozen=True)
class Preflight:
    """What was found; what must not be was refused."""

    parameters: int  # trained tensors
    waiting: int  # of them, that get a gradient once their other factor has left zero
    labels: Labels
    need: Need | None
    kept: int  # bytes that forward keeps for backward
    seconds: float

    @property
    def warning(self) -> str | None:
        """What a person should look at before the run."""
        return self.labels.warning

    def describe(self) -> str:
        """One line."""
        waiting = f" ({self.waiting} when their other factor leaves 0)" if self.waiting else ""
        parts = [
            f"all {self.parameters} trained tensors get a gradient{waiting}",
            f"{self.labels.share:.0%} of the tokens carry loss",
            *([str(self.need)] if self.need else []),
            f"{self.seconds:.1f} s",
        ]
        return f"preflight   {', '.join(parts)}"


def preflight(run: Run, state: TrainState) -> Preflight:
    """One forward and backward pass on the longest rows; raises InputError where the run is futile.

    Weights, optimizer and random generators are as before. The watch learns the level of the loss
    (`Watched`) from the first steps' rows, before anything is trained that could spoil it.
    """
    start = time.perf_counter()
    labels = Labels.of(run.rows)
    with _unchanged(run):
        received, kept, need = _gradients_and_memory(run)
        if state.watched.level is None and run.steps > HELD:
            state.watched.level = _level(run)
    count = len(run.parameters)
    waiting, seconds = count - received.count, time.perf_counter() - start
    return Preflight(count, waiting, labels, need, kept, seconds)


def _gradients_and_memory(run: Run) -> tuple[Received, int, Need | None]:
    """Who received a gradient, bytes kept by the largest forward pass, and what a step needs."""
    optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    received = Received(run.parameters, run.method.partner, optimized)
    before, kept = Usage.now(run.model.device), 0
    try:
        for rows in _tries(run):
            kept = max(kept, _backward(run, rows))
            received.note()
            if not received.missing:
                break
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"preflight: memory should hold one step, does not; {_smaller(run)}"
        ) from error
    refuse_missing(received)
    after = Usage.now(run.model.device)
    if before is None or after is None:
        return received, kept, None
    need = Need.between(before, after, states_to_come(run.optimizer))
    need.refuse_too_much(_smaller(run))
    return received, kept, need


def _backward(run: Run, rows: Rows) -> int:
    """One pass; the bytes that its forward kept."""
    with counting_kept([*run.model.parameters(), *run.model.buffers()]) as kept:
        loss = loss_sum(run.model, supervise(rows, run.pad_id))
    if not math.isfinite(loss.item()):
        raise InputError(
            f"preflight: loss should be finite before training, was {loss.item()} on"
            f" {rows[0][0].source}; the model or its --format cannot take this text"
        )
    if loss.requires_grad:  # else nothing at all is trained, which is told by name
        loss.backward()
    return kept.bytes


def _tries(run: Run) -> Iterator[Rows]:
    """The longest rows, which take the most memory; then others, for what those did not reach."""
    size = run.settings.batch_size
    yield sorted(run.rows, key=lambda row: -sum(map(len, row)))[:size]
    tokens = {t for m in run.model.modules() if isinstance(m, TokenRows) for t in m.tokens}
    if tokens:
        has = [row for row in run.rows if any(tokens & {*e.input_ids} for e in row)]
        yield has[:size] or run.rows[:size]
    for step in range(TRIES):
        yield [run.rows[number] for number in run.order.rows_of(step)][:size]


@torch.no_grad()
def _level(run: Run) -> float:
    """The largest loss of the first steps' rows."""
    losses = []
    for step in range(START):
        rows = [run.rows[number] for number in run.order.rows_of(step)]
        size = run.settings.batch_size
        batches = [supervise(rows[i : i + size], run.pad_id) for i in range(0, len(rows), size)]
        total = sum(loss_sum(run.model, batch).item() for batch in batches)
        losses.append(total / sum(len(batch.labels) for batch in batches))
    return max(losses)


@contextmanager
def _unchanged(run: Run) -> Iterator[None]:
    """Afterwards the generators and the absence of gradients again."""
    generators = randomness.capture()
    try:
        yield
    finally:
        run.optimizer.zero_grad()
        for parameter in run.parameters.values():
            parameter.grad = None
        randomness.restore(generators)


def _smaller(run: Run) -> str:
    settings = run.settings
    ways = []
    if not settings.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    if settings.batch_size > 1:
        half = settings.batch_size // 2
        ways.append(f"--batch-size {half} --accumulate {settings.accumulate * 2}")
    ways.append(f"--sequence-length {settings.sequence_length // 2}")
    if "8bit" not in settings.optimizer:
        ways.append("--optimizer paged-adamw-8bit")
    return f"try {', or '.join(ways)}"
