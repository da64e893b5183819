from dataclasses import replace
from pathlib import Path

import pytest

from qlora.recipe.notices import few_examples, strong_dropout
from qlora.train.settings import TrainSettings

BARE = TrainSettings(model=Path("m"), data=Path("d.jsonl"))


def test_below_a_thousand_examples_tuning_may_not_be_best():
    assert few_examples(1_000) == []
    (notice,) = few_examples(999)
    assert notice.message.startswith("999 examples are few")
    for way in ("few-shot prompt", "augmentation", "synthetic examples", "may beat tuning"):
        assert way in notice.fix


@pytest.mark.parametrize(("dropout", "warned"), [(None, 0), (0.19, 0), (0.2, 1), (0.3, 1)])
def test_strong_dropout_is_accepted_with_a_warning(dropout, warned: int):
    assert len(strong_dropout(replace(BARE, dropout=dropout))) == warned


def test_a_narrow_bottleneck_is_told_what_is_left_of_it():
    (notice,) = strong_dropout(replace(BARE, dropout=0.25, rank=8))
    assert "switches off 25% of 8 rank directions, leaving 6.0 on average" in notice.message
    assert "hardly learns" in notice.message
    (notice,) = strong_dropout(replace(BARE, dropout=0.25, dropout_on="input"))
    assert "25% of the adapter's inputs" in notice.message
