"""What follows from the number of examples: the ranges that practice has settled on, unbroken."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora.recipe.rules import NAMES, Advice, Case, advise, decide, on_the_line
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError

# Examples below this many: (least, most) dropout, (least, most) weight decay.
RANGES = [
    (1_000, (0.1, 0.15), (0.05, 0.1)),
    (10_000, (0.05, 0.1), (0.01, 0.05)),
    (100_000, (0.0, 0.05), (0.01, 0.01)),
    (10**9, (0.0, 0.0), (0.01, 0.01)),
]

BARE = TrainSettings(model=Path("m"), data=Path("d.jsonl"))


@given(st.integers(1, 10**8))
def test_dropout_and_decay_lie_in_the_range_of_their_number(num_examples: int):
    decided = decide(Case(num_examples))
    _, dropout, decay = next(row for row in RANGES if num_examples < row[0])
    assert dropout[0] <= decided.dropout <= dropout[1]
    assert decay[0] <= decided.weight_decay <= decay[1]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_examples_never_need_more(one: int, other: int):
    few, many = sorted((one, other))
    for name in ("dropout", "weight_decay"):
        assert on_the_line(name, few) >= on_the_line(name, many)


@pytest.mark.parametrize("num_examples", [1, 100, 101, 999, 1_000, 5_000, 99_999, 100_000, 10**7])
def test_a_reason_names_the_number(num_examples: int):
    advice = advise(Case(num_examples))
    assert set(advice) == set(NAMES)
    for name in ("dropout", "weight_decay"):
        assert f"{num_examples:,} examples" in advice[name].reason
    assert all(a.reason for a in advice.values())


def test_adapters_take_ten_times_the_rate_of_full_fine_tuning():
    full, lora = decide(Case(5_000, "full")), decide(Case(5_000))
    rate_of_b = lora.learning_rate * lora.lora_plus_ratio
    assert (lora.learning_rate * rate_of_b) ** 0.5 == pytest.approx(10 * full.learning_rate)
    plain = decide(Case(5_000, given={"lora_plus_ratio": 1.0}))
    assert plain.learning_rate == pytest.approx(10 * full.learning_rate)
    assert full.lora_plus_ratio == 1


def test_a_rate_that_is_given_is_taken_for_both_factors():
    """Whoever knows the rate of plain LoRA must not get 16 times of it for B."""
    decided = decide(Case(5_000, given={"learning_rate": 1e-3}))
    assert (decided.learning_rate, decided.lora_plus_ratio) == (1e-3, 1.0)
    both = decide(Case(5_000, given={"learning_rate": 1e-3, "lora_plus_ratio": 4.0}))
    assert (both.learning_rate, both.lora_plus_ratio) == (1e-3, 4.0)


@pytest.mark.parametrize("rank", [1, 8, 16, 64])
def test_alpha_is_twice_the_rank(rank: int):
    assert decide(Case(100, rank=rank)).alpha == 2 * rank
    assert replace(BARE, rank=rank).layers.alpha == 2 * rank


def test_rslora_begins_where_lora_is_and_grows_less():
    plain, root = (replace(BARE, rslora=rslora).following(500) for rslora in (False, True))
    assert plain.decided.alpha / 16 == root.decided.alpha / 16**0.5
    assert replace(BARE, rslora=True, rank=64).following(500).decided == root.decided


@given(
    st.integers(1, 10**6), st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, st.just(0.25)))
)
def test_settings_keep_what_was_given_and_lack_nothing(num_examples: int, values: dict):
    settings = replace(BARE, **values).following(num_examples)
    assert {name: getattr(settings, name) for name in values} == values
    assert settings.decided == decide(Case(num_examples, given=values))
    assert settings.following(1) == settings, "decided once"
    assert advise(Case(num_examples, given=dict.fromkeys(NAMES, 0.25))) == dict.fromkeys(
        NAMES, Advice(0.25, "as given")
    )


def test_undecided_numbers_are_not_used():
    with pytest.raises(ValueError, match="dropout"):
        _ = BARE.decided


def test_dropout_is_accepted_up_to_three_tenths():
    assert replace(BARE, dropout=0.3).dropout == 0.3
    with pytest.raises(InputError, match=r"train: dropout should be at most 0.3, was 0.31"):
        replace(BARE, dropout=0.31)
