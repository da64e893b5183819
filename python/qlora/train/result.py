"""What a run leaves behind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qlora.train.account import MemoryAccount
from qlora.train.optimizer import describe_paging
from qlora.train.progress import clock
from qlora_kernels.nn import Description

Ending = Literal["finished", "stopped early", "interrupted"]


@dataclass(frozen=True)
class TrainResult:
    """Where everything is, and how it went; losses are means over supervised tokens."""

    ending: Ending
    signal: int | None  # that interrupted it
    steps: int
    best_step: int | None
    best_loss: float | None
    folder: Path
    adapter: Path | None  # None where a run was interrupted before it had one
    checkpoint: Path | None
    metrics: Path
    plot: Path | None  # None without a step
    model: Description
    seconds: float  # in steps
    peak_memory_bytes: int
    memory: MemoryAccount | str | None = None  # by component, or why not; None without a step
    paging: dict[str, Any] | None = None  # counters of a paged optimizer


def describe_end(result: TrainResult) -> str:
    """How a run ended and where to look."""
    lines = [
        f"{result.ending} after {result.steps} steps, {clock(result.seconds)} of training,"
        f" peak memory {result.peak_memory_bytes / 2**20:.0f} MiB"
    ]
    if result.best_loss is not None:
        lines.append(
            f"best        validation loss {result.best_loss:.4f} after step {result.best_step}"
        )
    if isinstance(result.memory, MemoryAccount):
        lines.append(result.memory.describe())
    elif result.memory:
        lines.append(f"memory      not compared with a plan: {result.memory}")
    if result.paging is not None:
        lines.append(f"optimizer   {describe_paging(result.paging)}")
    places = {
        "adapter": result.adapter,
        "checkpoint": result.checkpoint,
        "metrics": result.metrics,
        "plot": result.plot,
    }
    lines += [f"{name:11} {place}" for name, place in places.items() if place]
    if result.ending == "interrupted" and result.checkpoint:
        lines.append(
            f"go on       qlora train --config {result.folder}/settings.yaml --resume auto"
        )
    return "\n".join(lines)
