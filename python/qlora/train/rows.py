"""What a run records: one frozen dataclass per kind of row, the same for files, screen and plot."""

from dataclasses import asdict, dataclass, field
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
    # What the watch saw; None while its window is short, and in files of runs before there was one.
    loss_z: float | None = None  # (loss - median) / (1.4826 MAD) of the losses before it
    gradient_norm_z: float | None = None  # the same of the norms
    update_ratio: float | None = None  # ||change|| / ||weights|| of what is trained, in this step


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
    cause: str = ""  # the watch's word for it; empty where something else warned
    layers: dict[str, float] = field(default_factory=dict)  # largest gradient norms, by module
    sources: tuple[str, ...] = ()  # the examples of the step, as "train.jsonl line 7"
    nonfinite: int = 0  # gradient values that are not finite


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
    """The inverse of `to_json`; fields that an older run did not write keep their defaults."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return KINDS[values.pop("kind")](**values)
