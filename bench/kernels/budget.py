"""How long a run may take, and what of it a case may: cheap cases first, dear ones if they fit."""

from dataclasses import dataclass, field
from time import monotonic

from bench.kernels.case import Case

BUDGET_ROUNDS = 3  # the fewest of a case where the time is short


@dataclass
class Budget:
    """The seconds of a whole run; what cases took tells what larger ones will take."""

    seconds: float
    start: float = field(default_factory=monotonic)
    took: dict[tuple[str, str], float] = field(default_factory=dict)  # seconds per operation
    known: set[str] = field(default_factory=set)  # dtypes whose roof and checks are done

    def ordered(self, cases: list[Case]) -> list[Case]:
        return sorted(cases, key=operations)

    def left(self) -> float:
        return self.start + self.seconds - monotonic()

    def refusal(self, case: Case) -> str | None:
        """Why a case is not timed, or None; of its like the last one's pace is expected."""
        expected = operations(case) * self.took.get(_kind(case), 0.0)
        if self.left() > expected:
            return None
        return f"not timed: would take about {expected:.0f} s, {max(self.left(), 0):.0f} s are left"

    def per_contender(self, cases_left: int, contenders: int, most: float) -> float:
        """An even share of what is left, and not more than asked for."""
        return min(most, max(self.left(), 0.0) / (cases_left * contenders))

    def note(self, case: Case, seconds: float) -> None:
        """The first case of a dtype also measured the roof and qualified the backend."""
        if case.dtype in self.known:
            self.took[_kind(case)] = seconds / operations(case)
        self.known.add(case.dtype)


def operations(case: Case) -> int:
    """In what order of magnitude a case is; a call of an op without rows reads the weight."""
    return max(case.m, 1) * case.n * case.k * (2 if case.trains else 1)


def _kind(case: Case) -> tuple[str, str]:
    return case.dtype, case.direction
