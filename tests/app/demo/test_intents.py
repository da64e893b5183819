"""The split must not leak: a test sentence comes from a template that training never saw."""

import json
from collections import Counter
from pathlib import Path

import pytest

from qlora.data.sources import read_examples
from qlora.demo.intents import HELD_OUT_ROWS, Parts, Row, make_rows, write_rows

NUM_TRAIN = 1500


@pytest.fixture(scope="module")
def rows() -> Parts[Row]:
    return make_rows(seed=0, num_train_rows=NUM_TRAIN)


def test_templates_of_the_parts_are_disjoint(rows: Parts[Row]) -> None:
    train, validation, test = (
        {(row.intent, row.template.text) for row in part}
        for part in (rows.train, rows.validation, rows.test)
    )
    assert not train & test
    assert not train & validation
    assert not validation & test
    assert (len(train), len(validation), len(test)) == (690, 39, 127)


def test_every_tested_intent_is_trained(rows: Parts[Row]) -> None:
    trained = {row.intent for row in rows.train}
    assert len(trained) == 42
    assert {row.intent for row in [*rows.test, *rows.validation]} <= trained


def test_no_utterance_occurs_twice(rows: Parts[Row]) -> None:
    counts = Counter(row.utterance for part in vars(rows).values() for row in part)
    assert counts.most_common(1)[0][1] == 1
    assert len(rows.train) == NUM_TRAIN


def test_templates_are_trained_on_about_equally_often(rows: Parts[Row]) -> None:
    counts = Counter((row.intent, row.template.text) for row in rows.train)
    assert max(counts.values()) <= NUM_TRAIN // len(counts) + 1 + len(counts) // 100


def test_held_out_templates_have_a_few_sentences_each(rows: Parts[Row]) -> None:
    counts = Counter((row.intent, row.template.text) for row in rows.test)
    assert max(counts.values()) == HELD_OUT_ROWS


def test_the_seed_chooses_the_training_sentences_only(rows: Parts[Row]) -> None:
    again, other = make_rows(0, NUM_TRAIN), make_rows(1, NUM_TRAIN)
    assert again == rows
    assert (other.validation, other.test) == (rows.validation, rows.test)
    assert other.train != rows.train


def test_written_rows_are_what_the_trainer_reads(rows: Parts[Row], tmp_path: Path) -> None:
    path = write_rows(rows.test, tmp_path / "test.jsonl")
    first = json.loads(path.read_text().splitlines()[0])
    assert first["prompt"] == f"{rows.test[0].utterance} ->"
    assert first["completion"] == f" {rows.test[0].intent}"
    fixture = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"
    from transformers import AutoTokenizer

    examples = read_examples(path, AutoTokenizer.from_pretrained(fixture), 512)
    assert len(examples) == len(rows.test)
