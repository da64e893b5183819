"""What the watch remembers of a run: plain numbers, part of every checkpoint."""

import math
from dataclasses import dataclass, field

from qlora.guard.watch.window import WINDOW, robust_z

START = 5  # steps that show where a run begins
HELD = 50  # steps in a row that show a level, or that it is lost
AWAY = math.log(2)  # a loss is away where its perplexity is over twice that of the level


@dataclass(frozen=True)
class Reading:
    """A step's numbers, and where they stand among those before."""

    loss: float
    gradient_norm: float  # before clipping
    loss_z: float | None
    gradient_norm_z: float | None


@dataclass
class Watched:
    """Losses and gradient norms so far, and the level that the loss has held.

    level: the least of
        max(5 losses at the start)           where the run began: the preflight's, else its first
        max(50 losses in a row), any 50      what it has held since
    """

    losses: list[float] = field(default_factory=list)  # the last ones
    gradient_norms: list[float] = field(default_factory=list)
    level: float | None = None
    steps_away: int = 0  # in a row, up to now, with a loss above level + ln 2
    warned_at: dict[str, int] = field(default_factory=dict)  # cause -> step of its last warning

    def read(self, loss: float, gradient_norm: float) -> Reading:
        """Compare with what came before; remembers nothing."""
        return Reading(
            loss,
            gradient_norm,
            robust_z(self.losses, loss),
            robust_z(self.gradient_norms, gradient_norm),
        )

    def is_away(self, loss: float) -> bool:
        """Whether the perplexity is over twice that of the level."""
        return self.level is not None and loss > self.level + AWAY

    def note(self, reading: Reading) -> None:
        """Remember a step that was taken."""
        self.steps_away = self.steps_away + 1 if self.is_away(reading.loss) else 0
        self.losses = [*self.losses, reading.loss][-WINDOW:]
        self.gradient_norms = [*self.gradient_norms, reading.gradient_norm][-WINDOW:]
        if len(self.losses) == START and self.level is None:
            self.level = max(self.losses)
        if len(self.losses) >= HELD and self.level is not None:
            self.level = min(self.level, max(self.losses[-HELD:]))
