"""How long a call of `python -m bench` may take, and what of it a case may."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from bench.kernels.case import Case
from bench.kernels.pace import Effort, Pace


@dataclass
class Budget:
    """The seconds of a whole call; what fewer rows took tells what more will take."""

    seconds: float
    pace: Pace
    start: float = field(default_factory=monotonic)

    def left(self) -> float:
        return max(0.0, self.start + self.seconds - monotonic())

    def refusal(self, case: Case, names: Sequence[str], effort: Effort) -> str | None:
        """Why a case is not timed now, or None: each contender is checked, most are timed too."""
        expected = 0.0
        for name in names:
            call = self.pace.expected(case, name) or 0.0
            if not self.pace.refusal(case, name, effort.slowest):
                expected += call * (1 if call > effort.once else 1 + effort.min_rounds)
        if self.left() > expected:
            return None
        return f"not timed: would take about {expected:.0f} s, {self.left():.0f} s are left"

    def per_contender(self, cases_left: int, contenders: int, most: float) -> float:
        """An even share of what is left, and not more than asked for."""
        return min(most, self.left() / (cases_left * contenders))
