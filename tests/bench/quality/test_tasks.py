"""What is held out is never trained on, and stays the same for every seed."""

import pytest

from bench.quality import tasks
from bench.quality.tasks import VALIDATION, few_shot, make_task, next_lines

SOURCE = '''\
def total(values):
    found = 0
    for value in values:
        found += value
    return round(found, 2)

def words():
    """First
    second
    third
    is not code here."""
'''


def test_a_line_follows_what_stands_before_it():
    [row] = next_lines(SOURCE)
    assert row.prompt.splitlines() == SOURCE.splitlines()[:4] and row.prompt.endswith("\n")
    assert row.completion == "    return round(found, 2)"


def test_python_is_split_by_modules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks, "LIBRARY", tasks.LIBRARY / "asyncio")
    first, second = (make_task("python", seed, 60) for seed in (0, 1))
    assert first.test == second.test and first.validation == second.validation
    assert first.train != second.train
    assert (
        len(first.train) == 60
        and len(first.test) == tasks.TEST["python"]
        and len(first.validation) == VALIDATION
    )


def test_solved_examples_have_different_answers_and_the_same_head():
    task = make_task("intents", 0, 200)
    rows = few_shot(task, 0, shots=5, num_rows=3)
    heads = {row.prompt.rpartition("\n")[0] for row in rows}
    assert len(heads) == 1
    answers = [line.rpartition("-> ")[2] for line in heads.pop().splitlines()]
    assert len(set(answers)) == 5
    prompts = {row.prompt for row in task.test}
    assert {row.prompt.rpartition("\n")[2] for row in rows} <= prompts
    assert not {row.prompt for row in task.train} & prompts
