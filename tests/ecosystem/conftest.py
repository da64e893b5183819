"""The tiny Llama, sonnets as rows of tokens, and what trainers warn of that is none of ours."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY, SONNETS = FIXTURES / "tiny_shakespeare_llama", FIXTURES / "sonnets.txt"
LENGTH = 32


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    pass


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps precision and accumulation of the first trainer for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def loaded() -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)


@pytest.fixture
def model(loaded: nn.Module) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="session")
def rows(tokenizer: PreTrainedTokenizerBase) -> list[dict[str, torch.Tensor]]:
    """Rows of 32 tokens, as a Trainer takes them."""
    ids = torch.tensor(tokenizer(SONNETS.read_text())["input_ids"])
    cut = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    return [{"input_ids": row, "labels": row.clone()} for row in cut]


@pytest.fixture(scope="session")
def tokens(rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([row["input_ids"] for row in rows[:2]])
