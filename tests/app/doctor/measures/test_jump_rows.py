"""The rows of one step: found again, and compared with the others as the base sees them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from qlora.doctor.measures import jump_rows
from qlora.doctor.subject import Subject
from qlora.doctor.token_losses import TokenLosses
from qlora.train.metrics import read_rows
from qlora.train.rows import StepRow
from qlora_kernels.errors import InputError


def losses(*examples: list[float]) -> TokenLosses:
    flat = torch.tensor([loss for example in examples for loss in example], dtype=torch.float64)
    sizes = torch.tensor([len(example) for example in examples])
    return TokenLosses(flat, torch.ones_like(flat), torch.zeros(len(flat), dtype=torch.bool), sizes)


def test_surprise_by_hand():
    others = losses([1.0, 3.0], [4.0], [], [6.0, 6.0, 6.0])  # means 2, 4, 6: deviation 2
    theirs = losses([9.0], [3.0, 5.0], [11.0], [8.0, 8.0])  # means 9, 4, 11, 8: mean 8
    assert jump_rows.surprise(theirs, others) == pytest.approx((8 - 4) / (2 / 4**0.5), rel=1e-12)
    with pytest.raises(InputError, match="two or more"):
        jump_rows.surprise(theirs, losses([1.0]))


def test_the_examples_of_a_step_are_those_that_it_was_trained_on(subject: Subject):
    rows = [r for r in read_rows(subject.run / "metrics.jsonl") if isinstance(r, StepRow)]
    before = 0
    for row in rows:
        assert sum(map(len, subject.examples_of_step(row.step))) == row.tokens - before
        before = row.tokens


def test_a_jump_on_ordinary_rows_is_not_theirs(run, tmp_path: Path):
    copy = tmp_path / "jumped"
    shutil.copytree(run(), copy)
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "step" and line["step"] == 20:
            line["loss"] += 30
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (fact,) = jump_rows.measure(Subject.open(copy))
    assert abs(fact.value) < 4
    assert "step 20" in fact.detail


def test_without_a_jump_nothing_is_measured(subject: Subject):
    assert jump_rows.measure(subject) == []
