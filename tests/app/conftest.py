"""The tiny Llama that the application's tests load, train and talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from float32 import in_float32

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_shakespeare_llama"


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    """For what tests share too; tests of bf16 ask for it."""
    with in_float32():
        yield


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Folder of a Llama with 0.9 million parameters and its tokenizer."""
    return TINY


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture
def model():
    """A fresh copy in float32: tests may change it."""
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
