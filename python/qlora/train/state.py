"""The one mutable thing of a run beside its weights, optimizer and random generators."""

from dataclasses import dataclass, field
from typing import Any

from qlora.guard.watch.watched import Watched


@dataclass
class TrainState:
    """Counters, and what evaluations and the watch have seen so far."""

    step: int = 0  # optimizer steps done; also the position in the data
    tokens: int = 0
    seconds: float = 0.0  # spent in steps
    evaluated_step: int | None = None
    best_step: int | None = None
    best_loss: float | None = None
    evaluations_without_gain: int = 0
    watched: Watched = field(default_factory=Watched)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "TrainState":
        """The inverse of `dataclasses.asdict`."""
        return TrainState(**{**values, "watched": Watched(**values["watched"])})

    def note_evaluation(self, loss: float) -> bool:
        """Add a validation loss; True where it is the best so far."""
        self.evaluated_step = self.step
        best = self.best_loss is None or loss < self.best_loss
        if best:
            self.best_step, self.best_loss = self.step, loss
        self.evaluations_without_gain = 0 if best else self.evaluations_without_gain + 1
        return best
