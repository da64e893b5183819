"""QLoRA against 16-bit LoRA: every run once, then a table and a record of the numbers."""

import json
from pathlib import Path

import pytest

from qlora.demo import compare
from qlora.demo.compare import Outcome, Summary, describe, difference_points, summarize

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"


def outcome(format_name: compare.Format, seed: int, accuracy: float) -> Outcome:
    return Outcome(format_name, seed, 80, accuracy, 0.1, 254, 1.0)


def test_mean_spread_and_difference() -> None:
    accuracies = {"nf4": (0.88, 0.9, 0.92), "none": (0.9, 0.9, 0.9)}
    outcomes = [
        outcome(name, seed, accuracy)
        for name in compare.NAMES
        for seed, accuracy in enumerate(accuracies[name])
    ]
    summaries = summarize(outcomes)
    assert summaries["nf4"].mean == pytest.approx(0.9)
    assert summaries["nf4"].spread == pytest.approx(0.02)
    assert summaries["none"].spread == pytest.approx(0)
    assert difference_points(summaries) == pytest.approx(0)


def test_one_seed_has_no_spread() -> None:
    summaries = summarize([outcome("nf4", 0, 0.5), outcome("none", 0, 0.75)])
    assert summaries["nf4"] == Summary(0.5, None, (0.5,))
    assert describe(summaries).caption == "QLoRA minus 16-bit LoRA: -25.0 points"


def test_finished_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "fetch_model", lambda say: FIXTURE)
    arguments = ["--seeds", "3", "--steps", "2", "--folder", str(tmp_path / "runs")]
    arguments += ["--output", str(tmp_path / "record.json")]
    assert compare.main(arguments) == 0
    first = json.loads((tmp_path / "record.json").read_text())
    assert [(run["format"], run["seed"]) for run in first["outcomes"]] == [("nf4", 3), ("none", 3)]
    assert {"commit", "date", "versions", "machine"} <= first.keys()

    monkeypatch.setattr(compare, "train", lambda *_: pytest.fail("trained again"))
    assert compare.main(arguments) == 0
    assert json.loads((tmp_path / "record.json").read_text())["outcomes"] == first["outcomes"]
