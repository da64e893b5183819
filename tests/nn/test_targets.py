"""Which layers get adapters: suffixes, regular expressions, "all-linear", patterns, exclusions."""

import pytest

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig
from qlora_kernels.nn.targets import matched_names

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
NAMES = [f"model.layers.{i}.self_attn.{p}" for i in range(12) for p in PROJECTIONS]
NAMES += [f"model.layers.{i}.mlp.{p}" for i in range(12) for p in ("up_proj", "down_proj")]
HEAD = "lm_head"


def matched(**options: object) -> list[str]:
    return matched_names([*NAMES, HEAD], {HEAD}, QLoRAConfig(**options))


def test_all_linear_is_all_but_the_head():
    assert matched() == NAMES


def test_a_list_matches_whole_ends_of_names():
    assert matched(targets=["q_proj"]) == [n for n in NAMES if n.endswith(".q_proj")]
    assert matched(targets=["1.mlp.up_proj"]) == ["model.layers.1.mlp.up_proj"]
    assert matched(targets=("model.layers.3.mlp.up_proj", "lm_head"))[1:] == ["lm_head"]


def test_a_string_is_a_regular_expression_for_the_whole_name():
    chosen = matched(targets=r".*layers\.(1|2)\..*_proj")
    assert len(chosen) == 12 and all(".1." in n or ".2." in n for n in chosen)
    assert matched(targets="lm_head") == ["lm_head"]


def test_exclude_takes_away():
    chosen = matched(exclude=["down_proj", "model.layers.0.self_attn.q_proj"])
    assert len(chosen) == len(NAMES) - 12 - 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"targets": ["q_prj"]}, "targets should match a linear layer, 'q_prj' matches none"),
        ({"targets": "q_prj"}, "targets should match a linear layer, 'q_prj' matches none"),
        ({"targets": ["proj"]}, "targets should match a linear layer, 'proj' matches none"),
        ({"exclude": ["down_prj"]}, "exclude should match a linear layer, 'down_prj' matches none"),
    ],
)
def test_what_matches_nothing_is_answered_with_the_nearest_names(options, text: str):
    with pytest.raises(qk.InputError) as refusal:
        matched(**options)
    message = str(refusal.value)
    assert message.startswith(f"prepare_model: {text}; nearest: ") and "\n" not in message
    wanted = "down_proj" if "exclude" in options else "q_proj"
    assert wanted in message.partition("nearest: ")[2]


def test_one_string_that_only_ends_names_is_told_how_to_match_them():
    with pytest.raises(qk.InputError) as refusal:
        matched(targets="q_proj")
    assert "'q_proj' is the end of some: '.*q_proj' matches them" in str(refusal.value)
    assert matched(targets=".*q_proj") == matched(targets=["q_proj"])


def test_far_off_names_are_answered_with_what_there_is():
    with pytest.raises(qk.InputError, match=r"nearest: .*q_proj"):
        matched(targets=["xxxxxxxxxxxxxxxxxxxxxx"])


def test_nothing_left_after_exclusion_is_an_error():
    with pytest.raises(qk.InputError, match="exclude"):
        matched(targets=["q_proj"], exclude=["q_proj"])


def test_patterns_choose_rank_and_alpha_by_the_end_of_a_name():
    config = QLoRAConfig(
        rank=8,
        alpha=16,
        rank_pattern={"q_proj": 2, r"layers\.1\..*": 4},
        alpha_pattern={r"mlp\.(up|down)_proj": 64.5},
    )
    assert config.rank_of("model.layers.1.self_attn.q_proj") == 2, "the first pattern that matches"
    assert config.rank_of("model.layers.1.mlp.up_proj") == 4
    assert config.rank_of("model.layers.11.mlp.up_proj") == 8
    assert config.rank_of("model.layers.0.my_q_proj") == 8, "a name's part matches as a whole"
    assert config.alpha_of("model.layers.0.mlp.up_proj") == 64.5
    assert config.alpha_of("model.layers.0.self_attn.q_proj") == 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "rank should be a whole number above 0, was 0"),
        ({"rank": -3}, "rank should be a whole number above 0, was -3"),
        ({"rank": 2.5}, "rank should be a whole number above 0, was 2.5"),
        ({"rank": True}, "rank should be a whole number above 0, was True"),
        ({"rank_pattern": {"q": 0}}, "q should be a whole number above 0, was 0"),
        ({"alpha": 0}, "alpha should be a finite number above 0, was 0"),
        ({"alpha": float("nan")}, "alpha should be a finite number above 0, was nan"),
        ({"alpha": "8"}, "alpha should be a finite number above 0, was '8'"),
        ({"alpha_pattern": {"q": -1}}, "q should be a finite number above 0, was -1"),
        ({"format": "nf5"}, "format should be one of nf4, fp4, int8"),
        ({"block_size": 65}, "block_size should be one of 32, 64"),
        ({"dropout": 1.0}, "dropout should be in [0, 1), was 1.0"),
        ({"dropout_on": "b"}, "dropout_on should be one of rank, input, was 'b'"),
        ({"init": "zeros"}, "init should be one of gaussian, kaiming-uniform, was 'zeros'"),
        ({"targets": "(q"}, "a pattern should be a regular expression, was '(q'"),
        ({"rank_pattern": {"[": 2}}, "a pattern should be a regular expression, was '['"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(options, text: str):
    with pytest.raises(qk.InputError) as refusal:
        QLoRAConfig(**options)
    assert str(refusal.value).startswith(f"QLoRAConfig: {text}")
