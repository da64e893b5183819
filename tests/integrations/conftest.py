"""The tiny Llama, whole model folders of it, and what tests compare models by."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_shakespeare_llama"
TOKENS = torch.randint(4, 1024, (2, 40), generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    pass


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory) -> Path:
    """With Conv1D layers, stored [in, out], biases and a tied head; in several shards."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size="100KB")
    return folder


def dense(dtype: torch.dtype = torch.float32) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype)


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(TOKENS).logits


def assert_same_state(left: nn.Module, right: nn.Module) -> None:
    """The same names, dtypes and bits."""
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
