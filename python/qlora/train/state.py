"""The one mutable thing of a run beside its weights, optimizer and random generators."""

from dataclasses import dataclass, field

from qlora.train.stopping import HISTORY


@dataclass
class TrainState:
    """Counters, and what evaluations and gradient norms have shown so far."""

    step: int = 0  # optimizer steps done; also the position in the data
    tokens: int = 0
    seconds: float = 0.0  # spent in steps
    evaluated_step: int | None = None
    best_step: int | None = None
    best_loss: float | None = None
    evaluations_without_gain: int = 0
    gradient_norms: list[float] = field(default_factory=list)  # the last ones

    def note_norm(self, norm: float) -> None:
        """Add a gradient norm to the history."""
        self.gradient_norms = [*self.gradient_norms, norm][-HISTORY:]

    def note_evaluation(self, loss: float) -> bool:
        """Add a validation loss; True where it is the best so far."""
        self.evaluated_step = self.step
        best = self.best_loss is None or loss < self.best_loss
        if best:
            self.best_step, self.best_loss = self.step, loss
        self.evaluations_without_gain = 0 if best else self.evaluations_without_gain + 1
        return best
