"""Verdicts follow from intervals, and from nothing where runs are missing."""

import math

import pytest

from bench.quality.claims import CLAIMS, best, judge, steps_to
from bench.quality.claims_table import NOT_SHOWN, claim_rows, claims_table
from bench.quality.intervals import interval, paired, verdict
from bench.quality.plan import CONFIGURATIONS


def test_the_interval_is_students():
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.half == pytest.approx(4.303 / math.sqrt(3))
    assert interval([5.0]).half is None
    assert interval([0.1, 0.2]).times(100).mean == pytest.approx(15)


@pytest.mark.parametrize(
    "gain, better, no_worse",
    [
        ([0.05, 0.051, 0.049], "held", "held"),
        ([-0.05, -0.051, -0.049], "refuted", "refuted"),
        ([-0.01, -0.0101, -0.0099], "refuted", "held"),
        ([-0.2, 0.2, 0.0], "undecided", "undecided"),
        ([0.05, 0.05], "not yet run", "not yet run"),
    ],
)
def test_a_verdict(gain: list[float], better: str, no_worse: str):
    assert verdict(gain, "better", 0.02) == better
    assert verdict(gain, "no worse", 0.02) == no_worse


def test_runs_are_compared_seed_by_seed():
    mine = [{"seed": 0, "loss": 1.0}, {"seed": 1, "loss": 2.0}, {"seed": 2, "loss": None}]
    theirs = [{"seed": 1, "loss": 1.5}, {"seed": 2, "loss": 1.0}]
    assert paired(mine, theirs, "loss") == [0.5]


def test_steps_are_found_between_points():
    curve = [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert steps_to(curve, 1.5) == 25
    assert (steps_to(curve, 4.0), steps_to(curve, 0.5)) == (10, 30)


def results_of(**right: float) -> dict:
    """Three seeds of each configuration that is named."""
    found: dict = {name: [] for name in CONFIGURATIONS}
    for name, value in right.items():
        found[name.replace("_", "-")] = [
            {"seed": seed, "right": value + seed / 1000, "loss": 1 - value} for seed in range(3)
        ]
    return found


def test_claims_are_judged_by_what_ran():
    results = results_of(qlora=0.8, lora=0.81, full=0.5, attention_r4=0.9, dora=0.7)
    judged = {judgement.claim.text: judgement for judgement in judge(results)}
    assert len(judge_texts := [claim.text for claim in CLAIMS]) >= len(judged), judge_texts
    assert judged["QLoRA is no worse than LoRA over 16 bits"].verdicts["right"] == "held"
    assert judged["DoRA does better than LoRA"].verdicts["right"] == "refuted"
    better = "rank 16 on all linear layers does better than rank 4 on attention alone"
    assert judged[better].verdicts == {"right": "refuted", "loss": "refuted"}
    assert judged["rank 1 is no worse than rank 16"].verdicts["right"] == "not yet run"


def test_the_best_rate_counts():
    assert best(results_of(full=0.5, full_3e_4=0.6), ("full", "full-3e-4")) == "full-3e-4"
    assert best(results_of(full=0.5), ("full", "full-3e-4")) == "full"
    assert best(results_of(), ("full", "full-3e-4")) == "full"


def test_few_seeds_show_figures_and_no_verdict():
    results = results_of(qlora=0.8, lora=0.9, full=0.9)
    results["lora"] = results["lora"][:2]
    table = claims_table(results)
    assert "| by | gain | seeds | verdict |" in table.replace(" source |", "", 1)
    first = table.splitlines()[2]
    assert first.endswith(f"| right | -10.0 ± 0.0 points | 2 of 3 | {NOT_SHOWN} |")
    assert "full fine-tuning (1 of 2 rates ran) |" in table
    missing = table.splitlines()[-1]
    assert missing.startswith("Not run yet, on one side or both: ")
    assert "rank 1 is no worse than rank 16" in missing and "16 bits;" not in missing
    rows = [row for judgement in judge(results) for row in claim_rows(judgement)]
    assert (rows[0]["seeds"], rows[0]["verdict"]) == (2, "not yet run")


def test_what_nobody_gets_right_decides_nothing():
    results = results_of()
    for name in ("base-int8", "base-none"):
        results[name] = [
            {"seed": seed, "python_right": 0.0, "python": 3.0, "english": 3.0} for seed in range(3)
        ]
    (judged,) = (j for j in judge(results) if j.claim.subject == ("base-int8",))
    assert judged.verdicts["python_right"] == "undecided" and judged.verdicts["python"] == "held"
    assert "| lines right | neither has any | 3 of 3 | undecided |" in claims_table(results)
