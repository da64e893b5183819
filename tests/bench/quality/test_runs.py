"""Runs on the tiny Llama: each kind gives figures, a finished one is not run again."""

import json
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench
from bench.quality import calls, command, frontier, plan, process, tasks
from bench.quality.finished import Finished, by_configuration, estimated_minutes
from bench.quality.page import page
from bench.quality.plan import CONFIGURATIONS, Run, runs
from qlora.train.action import Diverged
from qlora_kernels.errors import InputError

TINY = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, one_thread: None):
    monkeypatch.setattr("qlora.models.compute_dtype", lambda device=None: torch.float32)
    monkeypatch.setattr(process, "FEW_SHOT_ROWS", 3)
    monkeypatch.setattr(process, "SHOTS", 2)
    monkeypatch.setattr(process, "EVALUATE_EVERY", 1)
    monkeypatch.setattr(process, "TEST", {"python": 3})
    monkeypatch.setattr(tasks, "TEST", {"intents": 9, "python": 9})
    monkeypatch.setattr(tasks, "VALIDATION", 3)
    monkeypatch.setattr(tasks, "LIBRARY", tasks.LIBRARY / "asyncio")
    monkeypatch.setitem(plan.SIZES["intents"], "steps", 2)
    monkeypatch.setitem(plan.SIZES["python"], "sequence_length", 384)  # a small vocabulary


def found(name: str, wordnet: Path) -> dict:
    torch.manual_seed(0)
    return process.run(Run(CONFIGURATIONS[name], 0), TINY, wordnet)


@pytest.mark.parametrize("name", ["full", "qlora"])
def test_a_trained_run(name: str, wordnet: Path):
    row = found(name, wordnet)
    assert len(row["training"]) == 2 and [step for step, _ in row["validation"]] == [1, 2]
    assert 0 <= row["right"] <= 1 and row["loss"] > 0 and row["english"] > 0
    assert row["peak_mib"] > 0 and row["cpu_seconds"] > 0
    assert (row["trained"] == row["weights"]) == (name == "full")


def test_what_is_not_trained(wordnet: Path):
    base = found("base-fp4", wordnet)
    assert base["python"] > 0 and base["english"] > 0 and 0 <= base["intents_right"] <= 1
    shown = found("few-shot", wordnet)
    assert shown["prompt_tokens"] > 20 and shown["trained"] == 0 and shown["test_rows"] == 3


def test_calls_stand_beside_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(calls, "SHOTS", 2)
    monkeypatch.setattr(calls, "ROUNDS", 3)
    monkeypatch.setattr(command, "fetch_model", lambda say: TINY)
    words = ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path)]
    assert bench.main(["quality", "--calls", *words]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    seconds = record["calls"]["seconds"]
    assert seconds.keys() == {frontier.BASE, *frontier.MEMBERS}
    assert all(len(rounds) == 3 and min(rounds) > 0 for rounds in seconds.values())
    assert sum(seconds["few-shot"]) > sum(seconds[frontier.BASE])  # more tokens
    assert record["runs"] == [] and "of 3 rounds" in (tmp_path / "README.md").read_text()


def test_times_are_those_of_a_round():
    seconds = {frontier.BASE: [1.0, 2.0, 4.0], "lora": [1.0, 4.0, 4.0]}
    assert frontier.times_the_base(seconds, "lora") == "1.00 (1.00-1.60)"
    assert frontier.times_the_base(seconds, "dora") == "-"


def test_a_run_that_diverges_is_a_result(wordnet: Path, monkeypatch: pytest.MonkeyPatch):
    def diverge(*_: object) -> dict:
        raise Diverged(3, "loss should be finite, was nan", "not-finite", None, "a lower rate")

    monkeypatch.setattr(process, "trained", diverge)
    row = found("qlora", wordnet)
    assert "was nan" in row["diverged"] and "right" not in row


def made_up(run: Run) -> dict:
    return {
        "right": 0.5, "loss": 1.0, "english": 3.0, "trained": 10, "weights": 1000,
        "training": [1.0] * 60, "validation": [[40, 1.0], [60, 0.9]], "peak_mib": 90.0,
        "cpu_seconds": 90.0 + run.seed,
        "python": 1.0, "python_right": 0.3, "intents_right": 0.1,
    }  # fmt: skip


def test_finished_runs_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    taken: list[str] = []

    def take(one: Run, finished: Finished) -> None:
        taken.append(one.name)
        if len(taken) == 1:
            raise InputError("quality: what failed should be tried again")
        finished.keep(one, made_up(one))

    monkeypatch.setattr(command, "take", take)
    words = ["quality", "--output", str(tmp_path / "out"), "--folder"]
    some = ["--only", "qlora", "few-shot", "--seeds", "0", "1"]
    assert bench.main([*words, str(tmp_path / "a"), *some, "--most", "2"]) == 1
    assert taken == ["qlora-seed-0", "qlora-seed-1"]
    assert bench.main([*words, str(tmp_path / "a"), *some]) == 0
    assert taken[2:] == ["qlora-seed-0", "few-shot-seed-0", "few-shot-seed-1"]
    # A later sitting elsewhere has the committed record alone.
    assert bench.main([*words, str(tmp_path / "b"), *some]) == 0
    assert len(taken) == 5
    capsys.readouterr()
    assert bench.main([*words, str(tmp_path / "b"), "--plan"]) == 0
    shown = capsys.readouterr().out
    count = len(list(runs()))
    assert f"4 finished, {count - 4} left" in shown and "qlora-seed-2 " in shown
    path = tmp_path / "out/record.json"
    record, finished = json.loads(path.read_text()), Finished(tmp_path / "b", path)
    text = (tmp_path / "out/README.md").read_text()
    assert text == page(by_configuration(finished.all()), record)
    assert "Not run yet: LoRA over 16 bits;" in text and "50.0 ± 0.0 %" in text
    assert "4 of 105 runs; 0 of 35 configurations" in text and "| 2 of 3 |" in text
    assert [row["seeds"] for row in record["claims"]] == [0] * len(record["claims"])
    pictures = [tmp_path / "out" / f"{name}.png" for name in ("frontier", "methods")]
    assert all(picture.stat().st_size > 0 for picture in pictures)


def test_minutes_are_those_of_what_ran():
    results = by_configuration({})
    one = Run(CONFIGURATIONS["qlora"], 0)
    assert estimated_minutes(one, results) == 2.5
    results["r4"] = [{"cpu_seconds": 60.0}]
    assert estimated_minutes(one, results) == 1.0
    results["qlora"] = [{"cpu_seconds": 120.0}]
    assert estimated_minutes(one, results) == 2.0


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert bench.main(["quality", "--only", "qlor", "--plan"]) == 2
    assert "did you mean 'qlora'?" in capsys.readouterr().err
