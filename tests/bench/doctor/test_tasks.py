"""The tasks are a function of the seed, can be learned from their rows, and hold rows out."""

from pathlib import Path

import pytest

from bench.doctor.injections import drift, mask_answers, poison
from bench.doctor.table import EXPERIMENTS
from bench.doctor.tasks import Row, cipher, commands, facts, foreign_cipher, verdicts
from bench.doctor.words import SCRIPTS
from qlora.train.order import RowOrder
from qlora.train.settings import TrainSettings

TASKS = [cipher, commands, facts, foreign_cipher, verdicts]


def settings(**values) -> TrainSettings:
    return TrainSettings(
        **{"model": Path("m"), "data": Path("d"), "batch_size": 16, "steps": 10, **values}
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_a_seed_makes_the_same_rows_and_none_of_them_in_the_exam(task):
    rows = task(3, 120)
    assert rows == task(3, 120)
    assert rows.train != task(4, 120).train
    assert len(rows.train) == 120
    assert rows.validation and rows.exam
    trained = {row.prompt for row in rows.train}
    assert not trained & {row.prompt for row in rows.exam + rows.validation}


def test_a_cipher_is_a_permutation_that_all_rows_share():
    rows = cipher(1, 1200)
    code: dict[str, set[str]] = {}
    for row in rows.train + rows.exam:
        code.setdefault(row.prompt.split()[-1], set()).add(row.completion)
    assert all(len(answers) == 1 for answers in code.values())
    assert len(code) == len({next(iter(answers)) for answers in code.values()})


def test_every_examined_fact_was_taught():
    rows = facts(1, 144)
    assert len(rows.exam) == 48
    for row in rows.exam:
        taught = [
            other
            for other in rows.train
            if _pair(other.prompt) & _pair(row.prompt) == _pair(row.prompt)
        ]
        assert {other.completion for other in taught} == {row.completion}


def test_scripts_have_as_many_different_words_as_a_cipher_needs():
    assert all(len(set(words)) == len(words) == 40 for words in SCRIPTS)


def test_masked_rows_teach_nothing_but_the_end():
    rows = commands(1, 200)
    masked = mask_answers(rows, settings(seed=1))
    quiet = [row for row in masked.train if not row.completion]
    assert 0.9 < len(quiet) / len(masked.train) < 1
    assert [r.prompt + r.completion for r in masked.train] == [
        r.prompt + r.completion for r in rows.train
    ]
    assert masked.exam == rows.exam


def test_poison_is_exactly_one_step():
    rows, made = verdicts(1, 400), settings(seed=1)
    poisoned = poison(rows, made).train
    changed = {
        place for place, pair in enumerate(zip(rows.train, poisoned, strict=True)) if _differ(pair)
    }
    assert changed == set(RowOrder(400, 16, 1).rows_of(5))


def test_drift_leaves_the_training_rows_alone():
    rows = verdicts(1, 100)
    drifted = drift(rows, settings(seed=1))
    assert drifted.train == rows.train
    assert drifted.validation != rows.validation and drifted.exam != rows.exam


def test_the_table_covers_the_issue():
    ours = [e for e in EXPERIMENTS.values() if e.trainer == "qlora"]
    faults = [e for e in ours if e.cause]
    assert len(faults) >= 8 and len({e.cause for e in faults}) >= 8
    assert len(ours) - len(faults) >= 5
    assert (
        sum(e.trainer == "hugging-face" and e.cause is not None for e in EXPERIMENTS.values()) >= 3
    )


@pytest.mark.parametrize(
    "fault", [e for e in EXPERIMENTS.values() if e.cause], ids=lambda e: e.name
)
def test_a_fault_has_a_healthy_twin(fault):
    assert fault.twin is not None
    assert EXPERIMENTS[fault.twin].cause is None


def _pair(prompt: str) -> set[str]:
    frame = {"The", "is", "for", "the", "Who", "shall", "have", "Give", "to", "Let", "be"}
    return set(prompt.replace("?", "").split()) - frame


def _differ(pair: tuple[Row, Row]) -> bool:
    return pair[0] != pair[1]
