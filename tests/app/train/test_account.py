"""After a run: what the planner says of its memory beside what was counted."""

import pytest

from qlora.train.account import MemoryAccount
from qlora.train.result import describe_end
from qlora.train.trainer import train

NEAR = 0.05  # the project's law for the planner
NORMS = 8 * 4 * 1280  # bytes that DoRA caches for the outputs of four blocks: no parameters
EXACT = ("codes", "scales", "embeddings", "small", "adapters", "gradients", "optimizer")


@pytest.mark.parametrize("method", ["qlora", "dora", "lora", "8bit", "full"])
def test_every_component_is_as_predicted(settings, method: str):
    changes = {
        "qlora": {},
        "dora": {"dora": True},
        "lora": {"format": "none"},
        "8bit": {"optimizer": "adamw-8bit"},
        "full": {"method": "full", "format": "none"},
    }[method]
    memory = train(settings(steps=2, **changes)).memory
    assert isinstance(memory, MemoryAccount)
    for name in EXACT:
        norms = NORMS if (method, name) == ("dora", "adapters") else 0
        assert memory.measured[name] == memory.predicted[name] - norms, name
    kept = memory.measured["activations"]
    assert kept and abs(memory.predicted["activations"] / kept - 1) <= NEAR
    assert memory.peak > sum(size for size in memory.measured.values() if size)


def test_without_a_preflight_activations_are_not_counted(settings):
    result = train(settings(steps=1, preflight=False))
    assert isinstance(result.memory, MemoryAccount)
    assert result.memory.measured["activations"] is None
    assert "activations" in describe_end(result)


def test_what_cannot_be_predicted_says_why(settings):
    result = train(settings(steps=1, bias="all"))
    assert result.memory == "bias should be none, to be predicted, was all"
    assert "memory      not compared with a plan: bias" in describe_end(result)
