"""How long calls take: what a peer's will before it is made, so that slow ones can be bounded."""

from dataclasses import dataclass, field
from math import inf

from bench.kernels.case import Case
from bench.kernels.clock import MIN_ROUNDS

LEFT_OUT = "left out: a call would take about"


@dataclass(frozen=True)
class Effort:
    """What a case may take.

    seconds: of each contender, in at least so many rounds. once, slowest: seconds of one call; a
    peer's that takes longer is timed once, by the call that was checked, or not made at all.
    """

    seconds: float = 1.0
    min_rounds: int = MIN_ROUNDS
    once: float = inf
    slowest: float = inf


@dataclass
class Pace:
    """Seconds of one call, by contender and rows, of each weight, dtype and direction."""

    known: dict[tuple[object, ...], dict[int, float]] = field(default_factory=dict)

    def note(self, case: Case, name: str, seconds: float) -> None:
        self.known.setdefault(_kind(case, name), {})[case.m] = seconds

    def expected(self, case: Case, name: str) -> float | None:
        """As it was, or on the line through the two largest cases of fewer rows; else unknown."""
        known = self.known.get(_kind(case, name), {})
        if case.m in known:
            return known[case.m]
        fewer = sorted(m for m in known if m < case.m)[-2:]
        if len(fewer) < 2:
            return None
        first, second = fewer
        slope = max(0.0, (known[second] - known[first]) / (second - first))
        return known[second] + slope * (case.m - second)

    def refusal(self, case: Case, name: str, slowest: float) -> str | None:
        """Why a peer is not called at all, or None; what was timed once is timed in each run."""
        expected = self.expected(case, name) or 0.0
        if expected <= slowest or case.m in self.known[_kind(case, name)]:
            return None
        return f"{LEFT_OUT} {expected:.0f} s (--slowest-call {slowest:g})"


def _kind(case: Case, name: str) -> tuple[object, ...]:
    return name, case.op, case.n, case.k, case.dtype, case.direction, case.rank, case.format
