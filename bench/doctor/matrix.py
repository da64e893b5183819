"""Arithmetic of the confusion matrix: what was put in against what was named first."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEALTHY = "healthy"
NOTHING = "nothing"  # named: the doctor has nothing to say

Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Matrix:
    """counts[injected, named first]; injected causes and named ones in order of appearance."""

    counts: Mapping[tuple[str, str], int]
    injected: tuple[str, ...]
    named: tuple[str, ...]

    @property
    def faults(self) -> int:
        """Runs with a fault."""
        return sum(n for (cause, _), n in self.counts.items() if cause != HEALTHY)

    @property
    def right(self) -> int:
        """Faults whose cause was named first."""
        return sum(n for (cause, named), n in self.counts.items() if cause == named)

    @property
    def healthy(self) -> int:
        """Runs without a fault."""
        return sum(n for (cause, _), n in self.counts.items() if cause == HEALTHY)

    @property
    def accused(self) -> int:
        """Healthy runs of which the doctor named anything at all."""
        return self.healthy - self.counts.get((HEALTHY, NOTHING), 0)


def matrix_of(runs: Runs) -> Matrix:
    """Count the runs of a record."""
    counts = Counter((run["cause"] or HEALTHY, first_named(run)) for run in runs)
    injected = unique(run["cause"] or HEALTHY for run in runs)
    others = unique(named for _, named in counts if named not in injected and named != NOTHING)
    causes = tuple(cause for cause in injected if cause != HEALTHY)
    return Matrix(counts, injected, (*causes, *others, NOTHING))


def first_named(run: Mapping[str, Any]) -> str:
    """The likeliest cause that the doctor names."""
    return str(run["findings"][0]["cause"]) if run["findings"] else NOTHING


def fully_known(runs: Runs) -> Runs:
    """Those of our trainer, which the doctor could measure; where there are none, all."""
    return [run for run in runs if run["trainer"] == "qlora"] or runs


def harm(run: Mapping[str, Any], runs: Runs) -> dict[str, float] | None:
    """The twin's loss and accuracy on the exam, of the same seed; None where there is no twin."""
    for other in runs:
        if (other["experiment"], other["seed"]) == (run["twin"], run["seed"]):
            return dict(other["exam"])
    return None


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """In order of appearance."""
    return tuple(dict.fromkeys(names))
