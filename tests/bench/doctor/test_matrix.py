"""The matrix counts what the record says, and the page says what the matrix counts."""

from pathlib import Path

import pytest

from bench.doctor.diagnosis import findings, rejudged, rounded
from bench.doctor.matrix import NOTHING, first_named, harm, matrix_of
from bench.doctor.page import confusion, page, verdict
from bench.doctor.record import read_record, rewrite_record, write_record
from qlora.doctor import judge
from qlora_kernels.errors import InputError


def run(experiment: str, cause: str | None, *named: str, **values):
    return {
        "experiment": experiment,
        "title": "a title",
        "cause": cause,
        "twin": "sound" if cause else None,
        "trainer": "qlora",
        "seed": 100,
        "exam": {"loss": 2.0 if cause else 1.0, "accuracy": 0.25 if cause else 0.75},
        "curve": {"validation_step": [0, 10], "validation": [3.0, 1.0]},
        "facts": {},
        "not_measured": [],
        "findings": [{"cause": name, "confidence": 0.9 - 0.2 * i} for i, name in enumerate(named)],
        **values,
    }


RUNS = [
    run("sound", None),
    run("other", None, "forgetting"),
    run("memorized", "overfitting", "overfitting", "drifted-data"),
    run("drifted", "drifted-data", "overfitting", "drifted-data"),
    run("frozen", "frozen-adapters"),
]


def test_only_the_first_name_counts():
    matrix = matrix_of(RUNS)
    assert (matrix.right, matrix.faults) == (1, 3)
    assert (matrix.accused, matrix.healthy) == (1, 2)
    assert matrix.counts["drifted-data", "overfitting"] == 1
    assert matrix.counts["frozen-adapters", NOTHING] == 1
    assert matrix.named == (
        *("overfitting", "drifted-data", "frozen-adapters", "forgetting"),
        NOTHING,
    )


def test_the_verdict_is_in_words():
    assert verdict(matrix_of(RUNS)) == (
        "**1 of 3 injected faults named first (33%); 1 of the 2 healthy runs accused.**"
    )
    assert "none of the 1 healthy runs accused" in verdict(matrix_of(RUNS[:1]))


def test_the_table_leaves_columns_out_that_nobody_was_named_in():
    head, _, *lines = confusion(matrix_of(RUNS)).splitlines()
    assert head == "| injected \\ named first | overfitting | forgetting | nothing |"
    assert lines[-1] == "| healthy |  | 1 | 1 |"


def test_harm_is_the_twin_of_the_same_seed():
    assert harm(RUNS[2], RUNS) == {"loss": 1.0, "accuracy": 0.75}
    assert harm({**RUNS[2], "seed": 7}, RUNS) is None
    assert harm(RUNS[0], RUNS) is None


def test_a_record_is_read_back_and_judged_again(tmp_path: Path):
    write_record(tmp_path, RUNS, 120.0)
    record = read_record(tmp_path)
    assert record["runs"] == RUNS
    rewrite_record(tmp_path, [rejudged(one) for one in record["runs"]])
    again = read_record(tmp_path)
    assert {first_named(one) for one in again["runs"]} == {NOTHING}  # there are no facts in it
    assert again["commit"] == record["commit"] and again["judged"]["date"]
    assert "judged again at" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "matrix.png").stat().st_size > 1000


def test_a_trainer_state_is_in_a_table_of_its_own():
    state = run("hf-memorized", "overfitting", "overfitting", trainer="hugging-face")
    state["findings"][0]["confidence"] = 0.5
    record = {
        "runs": [*RUNS, state],
        "machine": {"cpu": "a processor"},
        "commit": "c",
        "date": "d",
        "seconds": None,
    }
    text = page(record)
    assert "**1 of 3 injected" in text
    row = "| hf-memorized: a title | overfitting | 1 x overfitting | 0.50 | 0.90 |"
    assert row in text


def test_without_a_record_there_is_nothing_to_judge(tmp_path: Path):
    with pytest.raises(InputError, match=r"record\.json should be there to judge again, is not"):
        read_record(tmp_path)


def test_numbers_are_rounded_and_empty_parts_left_out():
    assert rounded({"value": 1.23456789, "low": None, "detail": "", "by_layer": {}}) == {
        "value": 1.2346
    }
    assert findings(judge({})) == {"findings": []}
