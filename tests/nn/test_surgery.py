"""prepare_model on a real (tiny) Llama: what changes, what stays, and what is refused."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from nn.conftest import dequantized_into
from qlora_kernels.nn import (
    QLoRAConfig,
    QLoRALinear,
    adapter_parameters,
    describe,
    disable_adapters,
    quantized_layers,
)

CONFIG = QLoRAConfig(rank=4, alpha=8)
NUM_LINEAR = 4 * 7


@torch.no_grad()
def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens).logits


@pytest.mark.parametrize("format", ["nf4", "fp4", "int8", "none"])
def test_the_first_forward_differs_by_quantization_only(model, loaded, tokens, format: str):
    prepared = qk.prepare_model(model, replace(CONFIG, format=format))
    twin = dequantized_into(prepared, loaded)
    with qk.use_backend("reference"):
        assert torch.equal(logits(prepared, tokens), logits(twin, tokens))
    assert (format == "none") == torch.equal(logits(loaded, tokens), logits(twin, tokens))


def test_every_linear_layer_but_the_head_is_quantized(model, loaded):
    head, embedding = model.lm_head, model.model.embed_tokens
    assert qk.prepare_model(model, replace(CONFIG, targets=["q_proj"])) is model
    layers = quantized_layers(model)
    assert len(layers) == NUM_LINEAR and model.lm_head is head
    assert type(head) is nn.Linear and head.weight is embedding.weight
    assert torch.equal(head.weight, loaded.lm_head.weight)
    with_adapter = {n for n, layer in layers.items() if layer.lora_a is not None}
    assert with_adapter == {f"model.layers.{i}.self_attn.q_proj" for i in range(4)}


def test_only_adapters_want_gradients(model, tokens):
    qk.prepare_model(model, CONFIG)
    adapters = adapter_parameters(model)
    assert len(adapters) == 2 * NUM_LINEAR
    assert {n for n, p in model.named_parameters() if p.requires_grad} == adapters.keys()
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    model(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in adapters.values())


def test_patterns_reach_their_layers(model):
    config = replace(
        CONFIG, rank_pattern={r"mlp\..*": 2}, alpha_pattern={"q_proj": 32}, rslora=True
    )
    layers = quantized_layers(qk.prepare_model(model, config))
    up, q = layers["model.layers.0.mlp.up_proj"], layers["model.layers.0.self_attn.q_proj"]
    assert (up.lora_a.shape[0], up.scaling) == (2, 8 / 2**0.5)
    assert (q.lora_a.shape[0], q.scaling) == (4, 32 / 2)


def test_a_tied_head_is_not_touched_unasked(model):
    for options in ({"targets": ["lm_head"]}, {"quantize_head": True}):
        before = {n: type(m) for n, m in model.named_modules()}
        with pytest.raises(qk.InputError, match=r"shares model\.embed_tokens\.weight \(untie=True"):
            qk.prepare_model(model, replace(CONFIG, **options))
        assert {n: type(m) for n, m in model.named_modules()} == before, "half a surgery"
        assert all(p.requires_grad for p in model.parameters())


def test_an_untied_head_is_quantized(model, loaded, tokens):
    qk.prepare_model(model, replace(CONFIG, quantize_head=True, untie=True))
    head = model.lm_head
    assert isinstance(head, QLoRALinear) and head.format == "nf4" and head.lora_a is None
    assert torch.equal(model.model.embed_tokens.weight, loaded.model.embed_tokens.weight)
    assert not model.config.tie_word_embeddings
    twin = copy.deepcopy(loaded)
    twin.lm_head.weight = nn.Parameter(twin.lm_head.weight.detach().clone())
    twin = dequantized_into(model, twin)
    with qk.use_backend("reference"):
        assert torch.equal(logits(model, tokens), logits(twin, tokens))


def test_a_targeted_head_keeps_its_16_bits(model, loaded):
    qk.prepare_model(model, replace(CONFIG, targets=["lm_head"], untie=True))
    assert model.lm_head.format == "none" and model.lm_head.lora_a is not None
    assert torch.equal(model.lm_head.weight, loaded.lm_head.weight)


def test_bytes_per_weight_are_within_budget(model):
    layers = quantized_layers(qk.prepare_model(model, CONFIG)).values()
    num_bytes = sum(layer.base.nbytes for layer in layers)
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    told = describe(model)
    assert num_bytes / weights == told.bytes_per_weight <= 0.517
    assert told.num_quantized == weights and told.num_trainable == sum(
        p.numel() for p in adapter_parameters(model).values()
    )


def test_describe_counts_weights_not_codes(model, loaded):
    total = sum(p.numel() for p in loaded.parameters())
    told = describe(qk.prepare_model(model, CONFIG))
    assert told.num_parameters == total and len(told.adapted) == NUM_LINEAR
    assert told.reduction == total / told.num_trainable
    assert f"trainable {told.num_trainable:,} of {total:,} parameters" in str(told)


def test_adapters_are_switched_off_and_on(model, loaded, tokens):
    qk.prepare_model(model, CONFIG)
    base = logits(model, tokens)
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.1)
    adapted = logits(model, tokens)
    with disable_adapters(model):
        assert torch.allclose(logits(model, tokens), base)
    assert torch.equal(logits(model, tokens), adapted) and not torch.allclose(adapted, base)


def test_what_matched_is_listed(model, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "qlora_kernels"):
        qk.prepare_model(model, replace(CONFIG, targets=["v_proj"]))
    assert "adapters on 4 of 29 layers" in caplog.text
    assert "model.layers.3.self_attn.v_proj" in caplog.text


def test_progress_is_told(model):
    seen = []
    qk.prepare_model(model, CONFIG, progress=lambda *told: seen.append(told))
    assert seen[0][:2] == (1, NUM_LINEAR) and seen[-1][:2] == (NUM_LINEAR, NUM_LINEAR)


@pytest.mark.parametrize(
    ("format", "value", "reason"),
    [
        ("nf4", float("nan"), "should be finite in float32, was nan at [5, 7]"),
        ("int8", float("-inf"), "should be finite in float32, was -inf at [5, 7]"),
        ("none", float("nan"), "should be finite"),
        ("nf4", torch.finfo(torch.float32).max, "the mean of absmax should be finite"),
    ],
)
def test_a_refusal_names_the_weight_and_changes_nothing(model, format, value, reason):
    weight = model.model.layers[2].mlp.up_proj.weight
    weight.data[5, 7] = weight.data[9, 1] = value
    with pytest.raises(qk.InputError) as refusal:
        qk.prepare_model(model, replace(CONFIG, format=format))
    message = str(refusal.value)
    assert message.startswith("prepare_model: model.layers.2.mlp.up_proj.weight")
    assert reason in message and "\n" not in message
    assert not quantized_layers(model) and weight.requires_grad


def test_a_model_is_prepared_once(model):
    qk.prepare_model(model, CONFIG)
    with pytest.raises(qk.InputError, match=r"model should be unprepared, model\.layers\.0"):
        qk.prepare_model(model, CONFIG)


def test_a_model_without_linear_layers_is_refused():
    for model, was in ((nn.Embedding(3, 4), "none"), (nn.Linear(3, 4), "a single one")):
        with pytest.raises(qk.InputError, match=f"should hold linear layers, was {was}"):
            qk.prepare_model(model, CONFIG)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = self.first
        self.blocks = nn.ModuleList([self.first, nn.Linear(64, 64)])


def test_a_shared_layer_stays_shared():
    model = qk.prepare_model(Shared(), CONFIG)
    assert isinstance(model.first, QLoRALinear)
    assert model.first is model.second is model.blocks[0] is not model.blocks[1]
    assert len(adapter_parameters(model)) == 4


def test_a_subclass_of_linear_is_left_alone():
    class Special(nn.Linear):
        pass

    model = qk.prepare_model(nn.Sequential(Special(64, 64), nn.Linear(64, 64)), CONFIG)
    assert type(model[0]) is Special and isinstance(model[1], QLoRALinear)


def test_a_format_for_a_head_that_is_not_quantized_is_refused(model):
    mixed = replace(CONFIG, format={"lm_head": "int8"}, untie=True)
    with pytest.raises(qk.InputError, match="format should match a linear layer, 'lm_head'"):
        qk.prepare_model(model, mixed)
    qk.prepare_model(model, replace(mixed, quantize_head=True))
    assert model.lm_head.format == "int8"
