"""All facts that curves alone can give."""

import numpy

from qlora.doctor.curves.jumps import jump_facts
from qlora.doctor.curves.levels import training_facts
from qlora.doctor.curves.series import Curves
from qlora.doctor.curves.statistics import highest_median
from qlora.doctor.curves.validation import validation_facts
from qlora.doctor.facts import Fact


def curve_facts(curves: Curves) -> list[Fact]:
    """Facts of whatever was recorded; what was not gives none."""
    return [
        *_counts(curves),
        *training_facts(curves.training.finite),
        *validation_facts(curves.validation.finite, curves.training.finite),
        *jump_facts(curves),
        *_pace(curves),
    ]


def _counts(curves: Curves) -> list[Fact]:
    broken = {
        float(step)
        for recorded in (curves.training, curves.gradient_norm)
        for step, value in zip(recorded.steps, recorded.values, strict=True)
        if not numpy.isfinite(value)
    }
    where = f", first at step {min(broken):.0f}" if broken else ""
    told = f"steps whose loss or gradient norm is not a number: {len(broken)}{where}"
    last = float(curves.training.steps[-1])
    facts = [
        Fact("steps", last, detail=f"{last:.0f} steps, {len(curves.training)} records of the loss"),
        Fact("evaluations", float(len(curves.validation))),
        Fact("nonfinite_steps", float(len(broken)), detail=told),
    ]
    if len(curves.epoch.finite):
        facts.append(Fact("epochs", float(curves.epoch.finite.values[-1])))
    return facts


def _pace(curves: Curves) -> list[Fact]:
    facts = []
    norms, rates = curves.gradient_norm.finite.values, curves.learning_rate.finite.values
    if len(norms):
        zero = float(numpy.mean(norms == 0))
        detail = f"{zero:.0%} of steps had no gradient at all"
        facts.append(Fact("zero_gradient_steps", zero, detail=detail))
    if len(rates) and rates.max() > 0:
        peak, end = float(rates.max()), float(rates[-1] / rates.max())
        facts.append(Fact("learning_rate_peak", peak, detail=f"learning rate up to {peak:.3g}"))
        reach = float(rates.mean() * curves.training.steps[-1])
        told = f"rates add up to {reach:.2g}: no parameter can have moved further"
        facts.append(Fact("reach", reach, detail=told))
        facts.append(
            Fact("learning_rate_end", end, detail=f"{end:.0%} of the rate left at the end")
        )
    ratios = curves.update_ratio.finite.values
    if len(ratios):
        middle = float(numpy.median(ratios))
        detail = f"a step moves the adapters by {middle:.2g} of their size"
        facts.append(Fact("update_ratio", middle, detail=detail))
        highest = highest_median(ratios)
        detail = f"steps moved the adapters by up to {highest:.2g} of their size"
        facts.append(Fact("update_ratio_peak", highest, detail=detail))
    return facts
