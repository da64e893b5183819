"""Robust statistics of short noisy series."""

import numpy

from qlora.doctor.curves.series import Numbers

NORMAL_95 = 1.96  # standard deviations on either side that hold 95 % of a normal distribution
MAD_TO_DEVIATION = 1.4826  # of a normal distribution: deviation / median absolute deviation
NEIGHBOURS = 5  # records whose median one bad batch does not move
MOST_POINTS = 300  # for the slope, whose pairs grow with the square


def noise(values: Numbers) -> float:
    """Standard deviation of independent noise around a slow trend, from differences of neighbours.

    1.4826 median|d - median d| / sqrt(2), d_i = v_{i+1} - v_i: neither trend nor jumps count.
    """
    if len(values) < 3:
        return 0.0
    steps = numpy.diff(values)
    spread = numpy.median(numpy.abs(steps - numpy.median(steps)))
    return float(MAD_TO_DEVIATION * spread / 2**0.5)


def mean_interval(values: Numbers, deviation: float) -> tuple[float, float, float]:
    """Mean and its 95 % interval, for noise of a known deviation."""
    mean = float(numpy.mean(values))
    reach = NORMAL_95 * deviation / len(values) ** 0.5
    return mean, mean - reach, mean + reach


def running_mean(values: Numbers, window: int) -> Numbers:
    """Mean of each value and those before it, `window` of them where there are as many."""
    sums = numpy.concatenate([[0.0], numpy.cumsum(values)])
    last = numpy.arange(1, len(values) + 1)
    first = numpy.maximum(0, last - window)
    means: Numbers = (sums[last] - sums[first]) / (last - first)
    return means


def highest_median(values: Numbers) -> float:
    """The highest median of 5 neighbours: how high a series went and stayed for a moment."""
    windows = numpy.lib.stride_tricks.sliding_window_view(values, min(NEIGHBOURS, len(values)))
    return float(numpy.median(windows, axis=1).max())


def theil_sen(steps: Numbers, values: Numbers) -> tuple[float, float, float]:
    """Median over pairs of (v_j - v_i) / (t_j - t_i), and Sen's 95 % interval (JASA 1968)."""
    stride = -(-len(values) // MOST_POINTS)
    steps, values = steps[::stride], values[::stride]
    n = len(values)
    i, j = numpy.triu_indices(n, 1)
    slopes = numpy.sort((values[j] - values[i]) / (steps[j] - steps[i]))
    kendall = NORMAL_95 * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    low = max(0, int((len(slopes) - kendall) / 2))
    high = min(len(slopes) - 1, int((len(slopes) + kendall) / 2) + 1)
    return float(numpy.median(slopes)), float(slopes[low]), float(slopes[high])
