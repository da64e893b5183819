"""Ours trains as peft does; what trains otherwise is found out and gets no speed."""

from dataclasses import replace

import pytest
import torch

from bench.train_step import methods
from bench.train_step.agreement import BOUND, agreements, farthest
from bench.train_step.methods import METHODS, Way, prepare_ours
from bench.train_step.problem import TINY, Problem
from bench.train_step.process import Training

STEPS = 6
PROBLEM = Problem(str(TINY), rows=2, tokens=48)
BOUND_HERE = BOUND["float32"]


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(autouse=True)
def _one_thread_in_float32(one_thread: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.train_step.problem.compute_dtype", lambda: torch.float32)


def losses(way: Way, problem: Problem = PROBLEM) -> list[float]:
    return Training(way, problem).turn(STEPS).losses


@pytest.fixture
def peft_losses() -> list[float]:
    return losses(METHODS["lora"])


def test_ours_trains_as_peft_does(peft_losses: list[float]):
    assert farthest(losses(METHODS["ours-16"]), peft_losses) < BOUND_HERE / 100
    recomputed = replace(PROBLEM, checkpointing=True, attention="sdpa")
    assert farthest(losses(METHODS["ours-16"], recomputed), peft_losses) < BOUND_HERE / 100


def test_ours_trains_as_peft_over_bitsandbytes_does():
    ours, theirs = (losses(METHODS[name]) for name in ("ours", "qlora"))
    assert 0 < farthest(ours, theirs) < BOUND_HERE / 10


def test_a_wrong_alpha_and_a_wrong_rate_are_found_out(
    peft_losses: list[float], monkeypatch: pytest.MonkeyPatch
):
    ours = METHODS["ours-16"]
    assert farthest(losses(replace(ours, lora_plus_ratio=16.0)), peft_losses) > BOUND_HERE
    monkeypatch.setattr(methods, "ALPHA", 2 * methods.ALPHA)
    wrong = replace(ours, prepare=prepare_ours(format="none"))
    assert farthest(losses(wrong), peft_losses) > BOUND_HERE


def test_losses_that_are_no_numbers_agree_with_nothing():
    [agreement] = agreements({"a": [float("nan")], "b": [1.0]}, {"a": "b", "c": "b"}, "float32")
    assert not agreement.holds
    assert agreement.describe().startswith("a DISAGREES with b: losses off by inf at most")
