"""Adapters go both ways between ours and stock peft, and base and adapter come back exactly."""

import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from integrations.adapters import IGNORED, METHODS, base, float_copy, lora, ours, randomized, stock
from integrations.conftest import TOKENS, dense, logits
from qlora_kernels.integrations.peft import QuantizedLoraLinear

pytestmark = pytest.mark.filterwarnings(IGNORED)
OPTIONS = METHODS | {
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"mlp\.up_proj": 3}},
    "two targets": {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
    "norms saved": {"modules_to_save": ["norm"]},
}


def fused_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, QuantizedLoraLinear) for module in model.modules())


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_comes_back_without_registering_anything(tmp_path: Path, name: str, low_cpu_mem_usage):
    model = ours(lora(**OPTIONS[name])).eval()
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert fused_layers(again) == fused_layers(model) > 0
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("name", OPTIONS)
def test_stock_peft_reads_ours(tmp_path: Path, name: str):
    model = ours(lora(**OPTIONS[name])).eval()
    model.save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(float_copy(), tmp_path)
    assert not fused_layers(theirs)
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_we_read_stock_peft_s(tmp_path: Path, name: str):
    theirs = randomized(peft.get_peft_model(float_copy(), lora(**OPTIONS[name]))).eval()
    theirs.save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(base(), tmp_path)
    assert fused_layers(model)
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-4, atol=1e-4)


def test_our_own_files_are_the_same_files(tmp_path: Path):
    model = ours(lora(use_dora=True)).eval()
    model.save_pretrained(tmp_path)
    prepared = qk.prepare_model(base(), qk.QLoRAConfig(rank=4, alpha=8, dora=True))
    qk.load_adapter(prepared, tmp_path)
    torch.testing.assert_close(logits(prepared.eval()), logits(model))


def test_base_and_adapter_are_found_by_name(tmp_path: Path):
    """AutoPeftModel: the adapter's config names the folder with the codes."""
    base().save_pretrained(tmp_path / "base")
    quantized = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = randomized(peft.get_peft_model(quantized, lora())).eval()
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    assert torch.equal(logits(again), logits(model))


def test_gpt2(gpt2: Path, tmp_path: Path):
    """Conv1D underneath, in stock peft with fan_in_fan_out."""
    config = qk.integrations.transformers.NF4Config()
    codes = {"quantization_config": config, "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(gpt2, **codes)
    wrapped = qk.integrations.peft.get_peft_model(model, lora(target_modules=["c_attn", "c_fc"]))
    randomized(wrapped).eval().save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(gpt2, **codes).dequantize()
    with pytest.warns(UserWarning, match="fan_in_fan_out is set to False"):
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path)
    torch.testing.assert_close(logits(theirs), logits(wrapped), rtol=1e-4, atol=1e-4)


def test_a_dense_model_is_quantized_on_request():
    config = qk.integrations.transformers.NF4Config()
    model = dense().eval()
    made = qk.integrations.peft.get_peft_model(
        model, lora(modules_to_save=["v_proj"], target_modules=["q_proj"]), quantize=config
    )
    layers = qk.nn.quantized_layers(made)
    assert len(layers) == 4 * 6 and fused_layers(made) == 4
    assert not [name for name in layers if "v_proj" in name or "lm_head" in name]
    plain = qk.integrations.peft.get_peft_model(dense(), lora(), quantize=config).eval()
    assert torch.equal(logits(plain), logits(base()))
    randomized(plain)
    torch.testing.assert_close(logits(plain), logits(stock(plain)), rtol=1e-4, atol=1e-4)


def test_transformers_own_add_adapter(tmp_path: Path):
    model = base()
    model.add_adapter(lora(target_modules=["q_proj", "v_proj"]))
    assert fused_layers(model) == 8
    model(TOKENS, labels=TOKENS).loss.backward()
    model.save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} >= {"adapter_model.safetensors"}
    again = base()
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits(again), logits(model))
