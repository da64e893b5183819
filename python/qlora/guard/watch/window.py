"""Where a number stands among those before it, told by medians, which one outlier cannot move."""

import statistics
from collections.abc import Sequence

WINDOW = 100  # numbers that are remembered
ENOUGH = 20  # a median of fewer says little
NORMAL = 1.4826  # the standard deviation of normal numbers over their MAD
LEAST_SPREAD = 1e-3  # of the median: in a window of equal numbers nothing would be near


def robust_z(window: Sequence[float], value: float) -> float | None:
    """(value - median) / (1.4826 MAD) of the window; None for fewer than 20 numbers.

    MAD is the median distance to the median. A spread below a thousandth of the median counts as
    that thousandth.
    """
    if len(window) < ENOUGH:
        return None
    median = statistics.median(window)
    spread = NORMAL * statistics.median([abs(number - median) for number in window])
    least = LEAST_SPREAD * abs(median)
    scale = max(spread, least)
    return (value - median) / scale if scale else 0.0


def running_median(window: Sequence[float]) -> float | None:
    """None for fewer than 20 numbers."""
    return statistics.median(window) if len(window) >= ENOUGH else None
