"""GPT-2 stores its linear layers transposed (Conv1D); prepared, they compute the same."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import qlora_kernels as qk
from nn.conftest import dequantized_into, exact_logits
from qlora_kernels.nn import QLoRAConfig, quantized_layers


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=48, vocab_size=100, n_positions=32)
    return GPT2LMHeadModel(config).eval()


TOKENS = torch.arange(60).view(2, 30)


@pytest.mark.parametrize("format", ["nf4", "none"])
def test_the_first_forward_differs_by_quantization_only(gpt2, format: str):
    original = copy.deepcopy(gpt2)
    qk.prepare_model(gpt2, QLoRAConfig(format=format))
    layers = quantized_layers(gpt2)
    assert len(layers) == 2 * 4 and "lm_head" not in layers
    fused = layers["transformer.h.0.attn.c_attn"]
    assert (fused.in_features, fused.out_features) == (48, 144)
    torch.testing.assert_close(
        exact_logits(gpt2, TOKENS), exact_logits(dequantized_into(gpt2, original), TOKENS)
    )


def test_the_adapter_lies_the_right_way_round(gpt2):
    """W + s B A, transposed into a Conv1D, is what the prepared layer computes."""
    original = copy.deepcopy(gpt2)
    qk.prepare_model(gpt2, QLoRAConfig(rank=2, alpha=2, targets=["c_fc"], format="none"))
    for name, layer in quantized_layers(gpt2).items():
        if layer.lora_a is not None:
            torch.nn.init.normal_(layer.lora_b, std=0.1)
            update = layer.scaling * (layer.lora_b @ layer.lora_a).detach()
            original.get_submodule(name).weight.data += update.T
    torch.testing.assert_close(exact_logits(gpt2, TOKENS), exact_logits(original, TOKENS))
