"""Each cause by the facts that prove it, health by those that clear it."""

from dataclasses import replace
from typing import get_args

import numpy
import pytest

from app.doctor.shapes import HEALTHY, NOISE, curve, facts, healthy_curves
from qlora.doctor import judge
from qlora.doctor.curves import curve_facts
from qlora.doctor.diagnosis import Cause
from qlora.doctor.facts import KINDS, Fact, by_name
from qlora.doctor.judge import Opinion
from qlora.doctor.rules.derived import derive, suggestions
from qlora.doctor.rules.rule import Condition
from qlora.doctor.rules.table import RULES

FLAT = {"training": curve(lambda t: 3 + NOISE), "validation": curve(lambda t: 3 + 0 * t, every=12)}
LINE = {"training": curve(lambda t: 3 - 0.1 * t + NOISE / 10)}
SPIKE = {
    "training": curve(lambda t: 2 + numpy.exp(-6 * t) + NOISE + 4 * (t == 0.5)),
    "gradient_norm": curve(lambda t: 1 + 30 * (t == 0.5)),
}
EXPLODED = {
    "training": curve(lambda t: 3 + 4 * numpy.minimum(1, 10 * t) + NOISE),
    "validation": curve(lambda t: 7 + 0 * t, every=12),
    "learning_rate": curve(lambda t: 6e-3 + 0 * t),
}
MEMORISED = {
    "training": curve(lambda t: 3 - 2.5 * t + NOISE / 10),
    "validation": curve(lambda t: 2.5 + 4 * (t - 0.3) ** 2, every=12),
    "epoch": curve(lambda t: 10 * t),
}
CUT_OFF = {
    "training": curve(lambda t: 3 - t + NOISE / 10),
    "validation": curve(lambda t: 3.05 - t, every=8),
    "learning_rate": curve(lambda t: 2e-4 + 0 * t),
}

# cause -> (curves, measured facts) that differ from the healthy run's
FAULTS: dict[str, tuple[dict, dict[str, float]]] = {
    "frozen-adapters": (FLAT, {"unchanged_parameters": 1.0}),
    "masked-labels": ({}, {"supervised_share": 0.1, "unanswered_examples": 0.95}),
    "unknown-script": ({}, {"unknown_script": 0.9, "characters_per_token": 0.6}),
    "learning-rate-too-low": (
        {**LINE, "learning_rate": curve(lambda t: 1e-5 + 0 * t)},
        {"update_ratio": 1e-4},
    ),
    "learning-rate-too-high": (EXPLODED, {"update_ratio_peak": 0.5}),
    "poisoned-batch": (SPIKE, {}),
    "quantization-brittle": (
        {"gradient_norm": SPIKE["gradient_norm"]},
        {"quantization_error": 0.4, "quantization_loss": 0.2},
    ),
    "wrong-layers": ({}, {"untargeted_gradient": 0.8}),
    "capacity-too-low": (
        {},
        {
            "rank": 1.0,
            "effective_rank": 1.0,
            "captured_gradient": 0.02,
            "captured_by_chance": 0.02,
            "capturable_gradient": 0.4,
        },
    ),
    "stopped-too-early": (CUT_OFF, {}),
    "overfitting": (
        MEMORISED,
        {"gap_learned": 1.5, "generalization_gap": 1.6, "calibration_error_validation": 0.2},
    ),
    "drifted-data": ({}, {"drift_validation": 1.0, "generalization_gap": 1.05}),
    "forgetting": ({}, {"forgetting": 0.8, "forgetting_divergence": 0.7, "probe_given": 1.0}),
}


def facts_of(cause: str, measured: bool = True) -> dict[str, Fact]:
    curves, changes = FAULTS[cause]
    known = by_name(curve_facts(healthy_curves(**curves)))
    return known | (facts({**HEALTHY, **changes}) if measured else {})


def test_every_cause_has_a_rule_and_a_proof():
    assert set(RULES) == set(get_args(Cause)) == set(FAULTS)


@pytest.mark.parametrize("cause", FAULTS)
def test_a_cause_is_named_first_by_its_facts(cause: str):
    first = judge(facts_of(cause)).findings[0]
    assert first.cause == cause
    assert 0.5 <= first.confidence < 1
    assert first.evidence and first.fix and first.experiment and first.next_steps


def test_a_healthy_run_is_accused_of_nothing_and_told_what_was_looked_at():
    known = by_name(curve_facts(healthy_curves())) | facts(HEALTHY)
    diagnosis = judge(known)
    assert diagnosis.healthy
    assert len(diagnosis.looked_at) == len(RULES)
    from_curves = judge(by_name(curve_facts(healthy_curves())))
    assert from_curves.healthy


@pytest.mark.parametrize("cause", FAULTS)
def test_curves_alone_are_never_surer(cause: str):
    alone = {found.cause: found.confidence for found in judge(facts_of(cause, False)).findings}
    assert alone.get(cause, 0) <= judge(facts_of(cause)).findings[0].confidence


@pytest.mark.parametrize("cause", FAULTS)
def test_an_absent_fact_that_speaks_for_a_cause_lowers_it(cause: str):
    known = facts_of(cause)
    whole = Opinion(RULES[cause], derive(known))
    speaking = [c.fact for c, verdict in whole.verdicts if verdict == "holds" and c.weight > 0]
    assert speaking
    for name in set(speaking) & known.keys():
        without = {other: fact for other, fact in known.items() if other != name}
        assert Opinion(RULES[cause], derive(without)).confidence < whole.confidence, name


def test_a_flat_loss_from_curves_alone_is_suspected_and_says_what_would_tell():
    found = judge(by_name(curve_facts(healthy_curves(**FLAT)))).findings
    assert len(found) == 1
    assert found[0].confidence < 0.5
    assert found[0].unsettled


def test_overfitting_and_drift_are_told_apart_by_the_base():
    overfit, drift = judge(facts_of("overfitting")), judge(facts_of("drifted-data"))
    assert "drifted-data" in dict(overfit.findings[0].ruled_out)
    assert "overfitting" in dict(drift.findings[0].ruled_out)


def test_an_interval_around_the_threshold_decides_nothing():
    condition = Condition("forgetting", ">", 0.2, 1, 1, says="", denies="", reason="")
    fact = Fact("forgetting", 0.3, 0.1, 0.5)
    assert condition.judge({"forgetting": fact}) == "undecided"
    assert condition.judge({"forgetting": replace(fact, low=0.25)}) == "holds"
    assert condition.judge({"forgetting": replace(fact, high=0.15, value=0.12)}) == "fails"
    assert condition.judge({}) == "unknown"


@pytest.mark.parametrize("cause", RULES)
def test_a_rule_asks_for_facts_that_exist_and_gives_reasons(cause: str):
    rule = RULES[cause]
    for condition in rule.conditions:
        assert condition.fact in KINDS
        assert condition.reason
        known = facts({condition.fact: 0.5})
        assert condition.sentence(condition.says, known) != condition.says or "{" not in (
            condition.says
        )
        assert "{" not in condition.sentence(condition.denies, known)
    assert set(rule.confused_with) <= RULES.keys() - {cause}
    assert rule.fix({})


def test_fixes_name_the_numbers_of_the_run():
    numbers = suggestions(facts({"rank": 1.0, "learning_rate_peak": 6e-3}))
    assert RULES["capacity-too-low"].fix(numbers) == "--rank 16 --alpha 32"
    assert RULES["learning-rate-too-high"].fix(numbers) == "--learning-rate 0.0006"
    numbers = suggestions(facts({"rank": 32.0}))
    assert RULES["capacity-too-low"].fix(numbers) == "--rank 128 --alpha 256"


def test_a_broken_run_of_nan_alone_is_no_healthy_run():
    curves = healthy_curves(training=curve(lambda t: numpy.nan * t), validation=FLAT["validation"])
    assert not judge(by_name(curve_facts(curves))).healthy


def test_as_many_epochs_as_it_ran_are_no_fix():
    ran = {"epochs": Fact("epochs", 4.6), "best_validation_place": Fact("", 1.0)}
    assert "fewer_epochs" not in suggestions(ran)
    early = {**ran, "best_validation_place": Fact("", 0.4)}
    assert suggestions(early)["fewer_epochs"] == 2


def test_a_loss_of_zero_from_the_start_is_not_healthy():
    found = judge({f.name: f for f in curve_facts(healthy_curves(training=curve(lambda t: 0 * t)))})
    assert not found.healthy


def test_a_cause_is_not_ruled_out_where_the_evidence_for_it_is_stronger():
    known = facts({"drift_recent": 5.0, "gap_explained": 0.1, "drift_validation": 0.0})
    without = {name: fact for name, fact in known.items() if name != "drift_validation"}
    assert Opinion(RULES["drifted-data"], known).strongest_against is not None
    assert Opinion(RULES["drifted-data"], without).strongest_against is None
