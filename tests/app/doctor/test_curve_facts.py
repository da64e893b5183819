"""Facts of curves against what was put into them."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.doctor.shapes import NOISE, STEPS, curve, healthy_curves
from qlora.doctor.curves import Curves, curve_facts, series
from qlora.doctor.curves.statistics import noise, running_mean, theil_sen
from qlora.doctor.facts import KINDS, Fact, by_name, from_json, to_json
from qlora_kernels.errors import InputError


def facts_of(**changes) -> dict[str, Fact]:
    return by_name(curve_facts(healthy_curves(**changes)))


def test_levels_and_falls_are_those_of_the_curve():
    facts = facts_of()
    assert facts["steps"].value == STEPS
    assert facts["initial_loss"].low < 2 + numpy.exp(-6 * 1.5 / STEPS) < facts["initial_loss"].high
    assert facts["final_training_loss"].low < 2.0 < facts["final_training_loss"].high
    assert facts["training_fall"].low < 0.93 < facts["training_fall"].high
    assert facts["learning_rate_peak"].value == pytest.approx(2e-4, rel=1e-2)
    assert facts["validation_rise"].value == 0
    assert facts["nonfinite_steps"].value == 0


def test_noise_sees_neither_trend_nor_jumps():
    values = NOISE.copy()
    values[50] += 9
    assert noise(values + numpy.linspace(0, 5, STEPS)) == pytest.approx(NOISE.std(), rel=0.25)


def test_theil_sen_is_the_slope_and_its_interval_holds_it():
    steps = numpy.arange(60.0)
    values = 3 - 0.02 * steps + 0.1 * numpy.random.default_rng(1).standard_normal(60)
    values[[5, 40]] += 50  # outliers
    slope, low, high = theil_sen(steps, values)
    assert low < -0.02 < high and slope == pytest.approx(-0.02, abs=0.005)


def test_the_late_slope_of_a_straight_line_is_a_tenth_of_its_fall():
    facts = facts_of(training=curve(lambda t: 3 - t))
    assert facts["late_slope"].value == pytest.approx(-0.1, rel=0.02)
    assert facts["late_fall_share"].value == pytest.approx(1 / 3, rel=0.05)


def test_one_bad_batch_is_a_jump_that_recovers_and_no_overshoot():
    spiked = curve(lambda t: 2 + numpy.exp(-6 * t) + NOISE + 3 * (t == 0.5))
    facts = facts_of(training=spiked)
    assert facts["loss_jump"].value == pytest.approx(3, abs=0.2)
    assert facts["loss_jump_z"].value > 8
    assert facts["loss_jump_recovered"].value > 0.9
    assert facts["overshoot"].value < 0.3
    assert "step 60" in facts["loss_jump"].detail


def test_what_climbs_and_stays_has_not_recovered():
    facts = facts_of(training=curve(lambda t: 3 - t + NOISE + 3 * (t > 0.5)))
    assert facts["loss_jump_recovered"].value < 0.5
    assert facts["divergence"].low > 1


def test_what_is_not_a_number_is_counted_and_left_out():
    broken = curve(lambda t: numpy.where(t > 0.9, numpy.nan, 3 - t))
    facts = facts_of(training=broken)
    assert facts["nonfinite_steps"].value == 12
    assert "first at step 109" in facts["nonfinite_steps"].detail
    only_nan = Curves("made", series({1: float("nan"), 2: float("inf")}))
    assert {fact.name for fact in curve_facts(only_nan)} >= {"steps", "nonfinite_steps"}


def test_gradients_that_are_zero_are_told():
    facts = facts_of(gradient_norm=curve(lambda t: 0 * t))
    assert facts["zero_gradient_steps"].value == 1
    assert facts["gradient_norm_jump"].value == 1


@given(arrays(numpy.float64, st.integers(2, 40), elements=st.floats(-1e6, 1e6)))
def test_any_record_gives_finite_facts_with_a_row_in_the_registry(values):
    recorded = series(dict(enumerate(values.tolist())))
    facts = curve_facts(Curves("any", recorded, recorded, recorded))
    assert {fact.name for fact in facts} <= KINDS.keys()
    for fact in facts:
        if fact.low is not None:
            assert fact.low <= fact.value + 1e-6 and fact.value <= fact.high + 1e-6


def test_running_mean_is_the_mean():
    values = numpy.arange(10.0)
    expected = [values[max(0, i - 2) : i + 1].mean() for i in range(10)]
    numpy.testing.assert_allclose(running_mean(values, 3), expected)


def test_facts_survive_json_and_refuse_what_is_no_number():
    facts = facts_of()
    assert from_json(to_json(facts)) == facts
    with pytest.raises(InputError, match="fact steps: value should be finite"):
        Fact("steps", float("nan"))
    with pytest.raises(InputError, match="a row in KINDS, height has none"):
        by_name([Fact("height", 1.0)])
