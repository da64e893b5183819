"""What a run records: one frozen dataclass per kind of row, the same for files, screen and plot."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class StepRow:
    """One optimizer step; loss is the mean over its supervised tokens, before the update."""

    kind: ClassVar[str] = "step"
    step: int
    epoch: float
    loss: float
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens: int  # trained on so far, padding not counted
    tokens_per_second: float
    seconds: float  # of training so far, over all resumed parts
    memory_bytes: int  # peak


@dataclass(frozen=True)
class EvaluationRow:
    """The validation set after `step` steps."""

    kind: ClassVar[str] = "evaluation"
    step: int
    loss: float
    perplexity: float
    accuracy: float | None
    best: bool


@dataclass(frozen=True)
class WarningRow:
    """Something that a person should look at."""

    kind: ClassVar[str] = "warning"
    step: int
    message: str


Row = StepRow | EvaluationRow | WarningRow
KINDS: dict[str, type[Row]] = {row.kind: row for row in (StepRow, EvaluationRow, WarningRow)}


class Sink(Protocol):
    """Where rows go."""

    def record(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """No more rows will come."""


def to_json(row: Row) -> dict[str, Any]:
    """The row as plain values, its kind first."""
    return {"kind": row.kind, **asdict(row)}


def from_json(values: dict[str, Any]) -> Row:
    """The inverse of `to_json`."""
    values = dict(values)
    return KINDS[values.pop("kind")](**values)
