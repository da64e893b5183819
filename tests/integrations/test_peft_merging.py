"""Merging through peft's interface: measured, and taken back bit for bit."""

import copy
import warnings
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from integrations.adapters import IGNORED, METHODS, base, lora, ours, randomized
from integrations.conftest import assert_same_state, logits
from qlora_kernels.integrations.peft import QuantizedLoraLinear
from qlora_kernels.nn import quantized_layers
from qlora_kernels.nn.merging import dense_weight, merge_into, merged_weight

LOSSY = "ignore:merge. less than 90% of an update survives:UserWarning"
pytestmark = [pytest.mark.filterwarnings(IGNORED), pytest.mark.filterwarnings(LOSSY)]


def fused(model: nn.Module) -> dict[str, QuantizedLoraLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLoraLinear)}


@pytest.mark.parametrize("method", METHODS)
def test_unmerging_is_exact(method: str):
    model = ours(lora(**METHODS[method])).eval()
    state, before = copy.deepcopy(model.state_dict()), logits(model)
    model.merge_adapter()
    assert not torch.equal(logits(model), before)
    model.unmerge_adapter()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("method", METHODS)
def test_it_merges_what_the_adapter_does(method: str):
    """Into codes as `merge_into` does it; into 16 or 32 bits without a loss."""
    model = ours(lora(**METHODS[method])).eval()
    expected, before = logits(model), copy.deepcopy(model)
    model.merge_adapter()
    for name, layer in fused(model).items():
        twin = before.get_submodule(name)
        made, loss = merge_into(twin.base_layer.base, twin.adapter("default"))
        assert torch.equal(layer.base_layer.dequantize(), qk.dequantize(made))
        assert layer.merge_loss == loss
    for layer in quantized_layers(before).values():
        qk.requantize(layer, "none")
    before.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(before), expected, rtol=1e-3, atol=1e-3)


def test_several_adapters_merge_as_they_add_up():
    model = ours().eval()
    model.add_adapter("second", lora(r=2, use_dora=True))
    randomized(model, "second")
    model.base_model.set_adapter(["default", "second"])
    codes = copy.deepcopy(model.state_dict())
    for layer in quantized_layers(model).values():
        qk.requantize(layer, "none")
    expected = logits(model)
    name, layer = next(iter(fused(model).items()))
    base_weight = layer.base_layer.base
    both = [merged_weight(base_weight, layer.adapter(n)) for n in ("default", "second")]
    merged = both[0] + both[1] - dense_weight(base_weight)
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["second"])
    torch.testing.assert_close(model.get_submodule(name).base_layer.dequantize(), merged)
    torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3)
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    assert codes.keys() >= {name for name in model.state_dict() if "lora_" in name}


def test_merge_and_unload_is_a_model_to_save(tmp_path: Path):
    model = ours().eval()
    twin = copy.deepcopy(model)
    twin.merge_adapter()
    merged = model.merge_and_unload()
    assert not fused(merged) and torch.equal(logits(merged), logits(twin))
    merged.save_pretrained(tmp_path)
    assert_same_state(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), merged)


def test_unload_gives_the_base_back():
    assert_same_state(ours().unload(), base())


def test_disabling_takes_a_merge_back():
    model = ours().eval()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base()))


def test_an_update_that_would_be_lost_is_told_of():
    """4 bits round small updates away: that is warned of, and refused by safe_merge."""
    model = ours().eval()
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data *= 0.01
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(qk.InputError, match=r"at least 90% of the update .* keep the adapter"):
        model.merge_adapter(safe_merge=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with warnings.catch_warnings(), pytest.warns(UserWarning, match="less than 90% of an update"):
        warnings.simplefilter("always")
        model.merge_adapter()
    assert all(layer.merge_loss.retained < 0.9 for layer in fused(model).values())


def test_a_broken_adapter_is_not_merged():
    model = ours()
    layer = next(iter(fused(model).values()))
    layer.lora_B["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(qk.InputError, match="default should be finite"):
        layer.merge(safe_merge=True)


def test_biases_of_adapters_are_merged(gpt2: Path):
    config = qk.integrations.transformers.NF4Config("int8")
    codes = {"quantization_config": config, "dtype": torch.float32}
    plain = AutoModelForCausalLM.from_pretrained(gpt2, **codes)
    options = lora(target_modules=["c_attn", "c_fc"], lora_bias=True)
    model = randomized(qk.integrations.peft.get_peft_model(plain, options)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B.default.bias"):
            nn.init.normal_(parameter)
    state, expected = copy.deepcopy(model.state_dict()), logits(model)
    model.merge_adapter()
    assert (logits(model) - expected).abs().max() < 0.1 * expected.abs().max()
    model.unmerge_adapter()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_merged_copy_can_be_unmerged():
    model = ours().eval()
    before = logits(model)
    model.merge_adapter()
    twin = copy.deepcopy(model)
    twin.unmerge_adapter()
    assert torch.equal(logits(twin), before) and isinstance(twin, peft.PeftModel)
