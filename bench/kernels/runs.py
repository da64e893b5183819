"""Runs of a case, far apart in time: the figures of each, their medians, how far they spread."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.kernels.clock import Timing, ratio

Run = Mapping[str, Any]
TIMES = ("median_ms", "p20_ms", "p80_ms")


def run_of(ours: Timing, theirs: Timing | None, roof_ms: float) -> Run:
    """What one run found."""
    found = ratio(ours, theirs) if theirs else None
    return {
        **_summary(ours),
        "against_ms": theirs and _summary(theirs),
        "ratio": found and _short(found),
        "roof_ms": _short(roof_ms),
    }


def _summary(timing: Timing) -> dict[str, float]:
    """Three numbers, and of how many rounds."""
    times = {name: _short(getattr(timing, name)) for name in TIMES}
    return {**times, "rounds": len(timing.rounds_ms)}


def _short(number: float) -> float:
    """Six digits: more than any clock here has."""
    return float(f"{number:.6g}")


def summed(runs: Sequence[Run]) -> dict[str, Any]:
    """The fields of a record: medians over the runs, rounds added up."""
    theirs = [run["against_ms"] for run in runs if run["against_ms"]]
    ratios = [run["ratio"] for run in runs if run["ratio"] is not None]
    ours, roof_ms = _middle(runs), median(run["roof_ms"] for run in runs)
    spreads = {
        "median_ms": [run["median_ms"] for run in runs],
        "against_ms": [each["median_ms"] for each in theirs],
        "ratio": ratios,
    }
    return {
        **ours,
        "against_ms": _middle(theirs) if theirs else None,
        "ratio": median(ratios) if ratios else None,
        "roof_ms": roof_ms,
        "share_of_roof": roof_ms / ours["median_ms"],
        "runs": tuple(runs),
        "between_runs": _between(spreads) if len(runs) > 1 else None,
    }


def _middle(runs: Sequence[Run]) -> dict[str, float]:
    middle = {name: median(run[name] for run in runs) for name in TIMES}
    return {**middle, "rounds": sum(run["rounds"] for run in runs)}


def _between(figures: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    return {name: (min(values), max(values)) for name, values in figures.items() if values}
