"""Every family of models: prepared, grouped, trained a step as without groups, saved and loaded."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

import qlora_kernels as qk
from nn.conftest import exact_logits
from nn.test_shared_input import calls
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, describe, quantized_layers

SIZES = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=8),
    "gemma": GemmaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, sliding_window=8),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=8),
    "gpt2": GPT2Config(
        vocab_size=160, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    ),
}
CONFIG = QLoRAConfig(rank=4, alpha=8)
# GPT-2's c_attn is q, k and v in one layer already: nothing is left to group.
GROUPED = ["qlora_linear_of_3", "qlora_linear", "qlora_linear_of_2", "qlora_linear"]
ALONE = {"gpt2": 4}
TOKENS = torch.randint(3, 160, (2, 12), generator=torch.Generator().manual_seed(1))


def random_model(family: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family])).eval()


def prepared(family: str, config: QLoRAConfig = CONFIG) -> nn.Module:
    """With adapters that have learnt something, the same for the same family."""
    model = qk.prepare_model(random_model(family), config)
    random = torch.Generator().manual_seed(2)
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.1, generator=random)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_read_one_tensor_run_as_one_call(family: str):
    names = [name.rpartition(":")[2] for name in calls(prepared(family), TOKENS)]
    assert names == (["qlora_linear"] * 4 if family == "gpt2" else GROUPED) * 2
    alone = calls(prepared(family, replace(CONFIG, share_inputs=False)), TOKENS)
    assert len(alone) == 2 * ALONE.get(family, 7)
    assert len(quantized_layers(prepared(family))) == len(alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_separate_calls(family: str):
    """In float64, where the order of a sum is nothing."""
    found = []
    for config in (CONFIG, replace(CONFIG, share_inputs=False)):
        model = prepared(family, config).double()
        parameters = adapter_parameters(model)
        loss = model(TOKENS, labels=TOKENS).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in parameters.items()}
        torch.optim.SGD(parameters.values(), lr=0.5).step()
        with torch.no_grad():
            found.append((loss.detach(), gradients, model(TOKENS, labels=TOKENS).loss))
    (loss, gradients, after), (expected, expected_gradients, expected_after) = found
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients)
    torch.testing.assert_close(after, expected_after)
    assert after < loss


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_loaded(family: str, tmp_path: Path):
    model = prepared(family)
    qk.save_adapter(model, tmp_path)
    again = qk.prepare_model(random_model(family), CONFIG)
    assert not torch.equal(exact_logits(again, TOKENS), exact_logits(model, TOKENS))
    qk.load_adapter(again, tmp_path)
    assert torch.equal(exact_logits(again, TOKENS), exact_logits(model, TOKENS))
    assert describe(again).adapted == describe(model).adapted


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_new_tokens_start_from_the_base(family: str):
    config = replace(CONFIG, format="none", trainable_tokens=TOKENS[0, :2].tolist())
    base = random_model(family)
    before = exact_logits(base, TOKENS)
    model = qk.prepare_model(base, config)
    torch.testing.assert_close(exact_logits(model, TOKENS), before)
    [rows] = [p for name, p in adapter_parameters(model).items() if "token_rows" in name]
    model(TOKENS, labels=TOKENS).loss.backward()
    assert rows.grad.any()


MIXED = {"llama": r"mlp\.down_proj", "gpt2": r"mlp\.c_fc"}


@pytest.mark.parametrize("family", MIXED)
def test_a_model_of_several_formats_is_trained_and_changed_on_the_way(family: str):
    """The optimizer goes on with the parameters and states that it has."""
    mixture = {MIXED[family]: "int8", "h.0.*|layers.0.*": "fp4", "*": "nf4"}
    model = qk.prepare_model(random_model(family), replace(CONFIG, format=mixture)).train()
    layers = quantized_layers(model)
    assert {layer.format for layer in layers.values()} == {"int8", "fp4", "nf4"}
    parameters = adapter_parameters(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)

    def losses(steps: int) -> list[float]:
        values = []
        for _ in range(steps):
            loss = model(TOKENS, labels=TOKENS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            values.append(loss.item())
        return values

    first = losses(8)
    dense = random_model(family)
    for name, layer in layers.items():
        source = dense.get_submodule(name).weight.detach()
        qk.nn.requantize(layer, "int8", source=source if family == "llama" else source.T)
    assert all(parameters[n] is p for n, p in adapter_parameters(model).items())
    assert {int(state["step"]) for state in optimizer.state.values()} == {8}
    second = losses(8)
    assert second[-1] < second[0] < first[0]
    assert {layer.format for layer in quantized_layers(model).values()} == {"int8"}
    assert len(calls(model.eval(), TOKENS)) == 8, "still grouped"
