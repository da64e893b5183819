"""The largest jump of loss and gradient norm, and whether the run came back from it."""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from qlora.doctor.curves.series import Curves, Numbers, Series
from qlora.doctor.curves.statistics import MAD_TO_DEVIATION
from qlora.doctor.facts import Fact

BEFORE = 20  # records whose median a jump is measured from
LEAST_BEFORE = 5  # with fewer there is no usual value to jump from
COUNTS_AS_JUMP = 8.0  # deviations; batches of unequal difficulty stay below 6
LEAST_SPREAD = 0.02  # nats: where the loss is as good as zero, less than this is no jump
LEAST_NORM = 1e-9  # a usual norm below it is no gradient, and nothing to compare with
AFTER = 10  # records in which a jump may go back


def jump_facts(curves: Curves) -> list[Fact]:
    """Facts of the largest jumps; none where the record is too short to have a usual value."""
    return [*_loss_jump(curves.training.finite), *_norm_jump(curves.gradient_norm.finite)]


def largest_jump(training: Series) -> float | None:
    """The step of the loss's largest jump, in a series of finite values; None where none counts."""
    jump = _largest(training)
    return jump.step if jump is not None and jump.z >= COUNTS_AS_JUMP else None


@dataclass(frozen=True, slots=True)
class _Jump:
    """The largest one; times: how often the loss jumped by as many deviations as count."""

    at: int  # place in the series
    step: float
    size: float
    usual: float
    z: float
    times: float


def _largest(training: Series) -> _Jump | None:
    """None where the record is too short to have a usual value."""
    values = training.values
    if len(values) <= LEAST_BEFORE:
        return None
    medians, spreads = _usual(values)
    jumps = values[LEAST_BEFORE:] - medians
    place = int(jumps.argmax())
    scores = jumps / numpy.maximum(spreads, LEAST_SPREAD)
    return _Jump(
        at=place + LEAST_BEFORE,
        step=float(training.steps[place + LEAST_BEFORE]),
        size=float(jumps[place]),
        usual=float(medians[place]),
        z=float(scores[place]),
        times=_separate(scores >= COUNTS_AS_JUMP),
    )


def _loss_jump(training: Series) -> list[Fact]:
    jump, values = _largest(training), training.values
    if jump is None:
        return []
    told = f"loss {values[jump.at]:.3f} at step {jump.step:.0f} where {jump.usual:.3f} was usual"
    facts = [
        Fact("loss_jump", jump.size, detail=told),
        Fact("loss_jumps", jump.times, detail=f"so large a jump came {jump.times:.0f}x"),
        Fact("loss_jump_z", jump.z, detail=f"{told}, {jump.z:.0f} deviations more"),
    ]
    after = values[jump.at + 1 : jump.at + 1 + AFTER]
    if jump.z >= COUNTS_AS_JUMP and len(after):
        back = 1 - float(numpy.median(after) - jump.usual) / jump.size
        detail = f"{back:.0%} of the jump at step {jump.step:.0f} was gone in {len(after)} records"
        facts.append(Fact("loss_jump_recovered", back, detail=detail))
    return facts


def _norm_jump(norms: Series) -> list[Fact]:
    values = norms.values
    if len(values) <= LEAST_BEFORE:
        return []
    # A norm that has died down jumps easily: the whole run's median counts where it is larger.
    places = range(LEAST_BEFORE, len(values))
    largest = numpy.array([values[max(0, at - BEFORE) : at].max() for at in places])
    largest = numpy.maximum(largest, numpy.median(values))
    ratios = numpy.divide(
        values[LEAST_BEFORE:], largest, out=numpy.ones_like(largest), where=largest > LEAST_NORM
    )
    place = int(ratios.argmax())
    at, ratio = place + LEAST_BEFORE, float(ratios[place])
    detail = (
        f"gradient norm {values[at]:.3g} at step {norms.steps[at]:.0f},"
        f" {ratio:.1f}x the largest of the {min(at, BEFORE)} before"
    )
    return [Fact("gradient_norm_jump", ratio, detail=detail)]


def _usual(values: Numbers) -> tuple[Numbers, Numbers]:
    """Median and robust deviation of the records before each from the sixth on."""
    medians, spreads = [], []
    for at in range(LEAST_BEFORE, len(values)):
        before = values[max(0, at - BEFORE) : at]
        medians.append(numpy.median(before))
        spreads.append(MAD_TO_DEVIATION * numpy.median(numpy.abs(before - medians[-1])))
    return numpy.array(medians), numpy.array(spreads)


def _separate(jumped: NDArray[numpy.bool_]) -> float:
    """How many runs of True there are."""
    return float(numpy.sum(jumped[1:] & ~jumped[:-1]) + jumped[0])
