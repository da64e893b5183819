"""Means with their 95 % intervals over seeds, and what they say about a claim.

    mean +- t(n - 1) s / sqrt(n)        Student's t, s the sample standard deviation

Runs are compared seed by seed, since one seed gives both the same rows in the same order.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Student's t, 97.5 %, by degrees of freedom; beyond the table the last is on the safe side.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
FEWEST = 3  # seeds for a verdict

Verdict = Literal["held", "refuted", "undecided", "not yet run"]
Kind = Literal["better", "no worse"]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Interval:
    """low and high are None of one value, which says nothing about others."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half(self) -> float | None:
        return None if self.high is None else self.high - self.mean

    def times(self, factor: float) -> "Interval":
        """In another unit."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Interval(factor * self.mean, low, high, self.count)


def interval(values: Sequence[float]) -> Interval:
    """Of at least one value."""
    mean, count = statistics.mean(values), len(values)
    if count < 2:
        return Interval(mean, None, None, count)
    t = T[min(count - 2, len(T) - 1)]
    half = t * statistics.stdev(values) / count**0.5
    return Interval(mean, mean - half, mean + half, count)


def paired(rows: Rows, others: Rows, metric: str) -> list[float]:
    """rows' metric minus the others' of the same seed; nothing where either lacks it."""
    known = {row["seed"]: row[metric] for row in others if row.get(metric) is not None}
    mine = {row["seed"]: row[metric] for row in rows if row.get(metric) is not None}
    return [mine[seed] - known[seed] for seed in sorted(mine.keys() & known.keys())]


def verdict(gain: Sequence[float], kind: Kind, margin: float) -> Verdict:
    """On gains by seed, positive where the claim's subject does better.

    better: held where the interval is above 0, refuted where it is below. no worse: held where it
    is above -margin, refuted where it is below. What contains the border is undecided.
    """
    if len(gain) < FEWEST:
        return "not yet run"
    found = interval(gain)
    assert found.low is not None and found.high is not None
    border = 0.0 if kind == "better" else -margin
    if found.low > border:
        return "held"
    return "refuted" if found.high < border else "undecided"
