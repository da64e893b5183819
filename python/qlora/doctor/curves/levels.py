"""Where the training loss starts, where it ends, and whether it still moves."""

import math

from qlora.doctor.curves.series import Numbers, Series
from qlora.doctor.curves.statistics import (
    NORMAL_95,
    highest_median,
    mean_interval,
    noise,
    running_mean,
    theil_sen,
)
from qlora.doctor.facts import Fact

START_SHARE = 0.01  # of the run's records: warm-up takes longer, so that nothing is learned yet
END_SHARE, LATE_SHARE = 0.1, 1 / 3
LEAST_FOR_SLOPE = 6  # records; Sen's interval of fewer says nothing


def training_facts(training: Series) -> list[Fact]:
    """Levels, fall, slope and divergence of a finite series."""
    n = len(training)
    if n < 2:
        return []
    values, deviation = training.values, noise(training.values)
    start, end = math.ceil(n * START_SHARE), math.ceil(n * END_SHARE)
    initial, *first = mean_interval(values[:start], deviation)
    final, *last = mean_interval(values[-end:], deviation)
    fall = initial - final
    reach = NORMAL_95 * deviation * (1 / start + 1 / end) ** 0.5
    facts = [
        Fact("initial_loss", initial, first[0], first[1], f"training loss starts at {initial:.3f}"),
        Fact("final_training_loss", final, last[0], last[1], f"training loss ends at {final:.3f}"),
        Fact(
            "training_fall",
            fall,
            fall - reach,
            fall + reach,
            f"training loss goes from {initial:.3f} to {final:.3f}",
        ),
        _divergence(values, initial, end, deviation),
        _overshoot(values, initial),
    ]
    return facts + _trend(training) + _late(training, fall)


def _overshoot(values: Numbers, initial: float) -> Fact:
    """How far the running median climbed above the start."""
    highest = highest_median(values)
    detail = f"training loss started at {initial:.3f} and was up to {highest:.3f}"
    return Fact("overshoot", highest - initial, detail=detail)


def _divergence(values: Numbers, initial: float, end: int, deviation: float) -> Fact:
    """What the running mean lost again since it was least, the start counted in."""
    smooth = running_mean(values, end)[end - 1 :]
    least, last = min(initial, float(smooth.min())), float(smooth[-1])
    reach = NORMAL_95 * deviation * (2 / end) ** 0.5
    detail = f"training loss was {least:.3f} at its best and {last:.3f} at the end"
    return Fact("divergence", last - least, last - least - reach, last - least + reach, detail)


def _trend(training: Series) -> list[Fact]:
    """A straight line through the whole run: noise hides it less than it hides the ends."""
    if len(training) < LEAST_FOR_SLOPE:
        return []
    length = float(training.steps[-1] - training.steps[0])
    slope, low, high = (length * number for number in theil_sen(training.steps, training.values))
    return [Fact("trend", slope, low, high, f"its trend over the run is {slope:+.3f} nats")]


def _late(training: Series, fall: float) -> list[Fact]:
    count = math.ceil(len(training) * LATE_SHARE)
    if count < LEAST_FOR_SLOPE:
        return []
    slope, low, high = theil_sen(training.steps[-count:], training.values[-count:])
    tenth = float(training.steps[-1] - training.steps[0]) / 10
    moves = f"{slope * tenth:+.3f} nats per tenth of the run"
    late = Fact(
        "late_slope", slope * tenth, low * tenth, high * tenth, f"in its last third {moves}"
    )
    if fall <= 0:
        return [late]
    length = float(training.steps[-1] - training.steps[-count])
    parts = [-number * length / fall for number in (slope, high, low)]
    detail = f"{parts[0]:.0%} of the fall came in the last third"
    return [late, Fact("late_fall_share", parts[0], parts[1], parts[2], detail)]
