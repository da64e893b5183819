"""The tiny Llama, fresh for every test, and dequantized twins to compare with."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.nn import quantized_layers

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_shakespeare_llama"


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    pass


@pytest.fixture(scope="session")
def loaded() -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@pytest.fixture
def model(loaded: nn.Module) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.randint(4, 1024, (2, 40), generator=torch.Generator().manual_seed(5))


def dequantized_into(prepared: nn.Module, original: nn.Module) -> nn.Module:
    """A copy of the original whose linear layers hold what the prepared model's codes mean."""
    twin = copy.deepcopy(original)
    for name, layer in quantized_layers(prepared).items():
        if isinstance(layer.base, QuantizedTensor):
            linear, values = twin.get_submodule(name), layer.dequantize()
            linear.weight.data.copy_(values if isinstance(linear, nn.Linear) else values.T)
    return twin


@torch.no_grad()
def exact_logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """In float64, where two ways to sum differ by nothing that matters."""
    return copy.deepcopy(model).double()(tokens).logits
