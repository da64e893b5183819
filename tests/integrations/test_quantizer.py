"""`NF4Config`: quantized while loading, saved, loaded again: the same bits all the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from integrations.conftest import TINY, TOKENS, assert_same_state, dense, logits
from qlora import cli
from qlora.models import load_model
from qlora_kernels.integrations.transformers import NF4Config
from qlora_kernels.nn import quantized_layers

CONFIGS = {
    "nf4": NF4Config(),
    "fp4": NF4Config("fp4", double_quant=False),
    "int8": NF4Config("int8", block_size=128),
    "nf4-tuned": NF4Config("nf4-tuned", block_size=32),
    "searched": NF4Config(scale_search=True),
    "mixed": NF4Config({"down_proj": "int8", "*": "nf4"}),
}


def quantized(folder: Path = TINY, config: NF4Config | None = None, **options: object):
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, **options)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.bfloat16) for name in CONFIGS), ("nf4", torch.float32)]
)
def test_it_loads_what_prepare_model_makes(name: str, dtype: torch.dtype):
    config = CONFIGS[name]
    model = quantized(config=config, dtype=dtype)
    twin = dense(dtype).eval()
    fields = {
        k: v for k, v in config.to_dict().items() if k not in ("skip_modules", "quant_method")
    }
    qk.prepare_model(twin, qk.QLoRAConfig(targets=(), share_inputs=False, **fields))
    assert_same_state(model, twin)
    assert torch.equal(logits(model), logits(twin))
    assert model.dtype == dtype and not model.training


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_folder_loads_bit_for_bit(tmp_path: Path, name: str):
    model = quantized(config=CONFIGS[name])
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same_state(model, again)
    assert torch.equal(logits(model), logits(again))
    stored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert stored == CONFIGS[name].to_dict() == again.config.quantization_config.to_dict()
    again.save_pretrained(tmp_path / "twice")
    assert_same_state(model, AutoModelForCausalLM.from_pretrained(tmp_path / "twice"))


def test_folders_of_the_command_are_the_same_folders(tmp_path: Path, capsys):
    assert cli.main(["quantize", str(TINY), "-o", str(tmp_path / "command")]) == 0
    ours = quantized(config=NF4Config())
    assert_same_state(AutoModelForCausalLM.from_pretrained(tmp_path / "command"), ours)
    ours.save_pretrained(tmp_path / "saved")
    for file in TINY.glob("tokenizer*"):
        (tmp_path / "saved" / file.name).write_bytes(file.read_bytes())
    assert_same_state(load_model(tmp_path / "saved", "bfloat16")[0], ours)


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_maps(tmp_path: Path, device_map: str):
    model = quantized(config=NF4Config(), device_map=device_map)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map)
    assert_same_state(model, again)
    assert model.device.type == "cpu"


def test_the_tied_head_stays_tied_and_dense(tmp_path: Path):
    model = quantized(config=NF4Config())
    model.save_pretrained(tmp_path)
    for one in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert one.lm_head.weight is one.model.embed_tokens.weight
        assert one.lm_head.weight.dtype == torch.bfloat16


def test_skipped_modules_stay_dense():
    model = quantized(config=NF4Config(skip_modules=["v_proj", "model.layers.0"]))
    layers = quantized_layers(model)
    assert len(layers) == 3 * 6
    assert not [name for name in layers if "v_proj" in name or "layers.0." in name]


def test_another_dtype_keeps_the_codes(tmp_path: Path):
    quantized(config=NF4Config()).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    codes = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.float32 and codes.dtype == torch.bfloat16
    for name, layer in quantized_layers(model).items():
        other = quantized_layers(codes)[name]
        assert torch.equal(layer.weight, other.weight)
        assert layer.dequantize().dtype == torch.float32
        assert torch.equal(layer.dequantize().bfloat16(), other.dequantize())


def test_gpt2_keeps_its_transposed_weights_and_biases(gpt2: Path, tmp_path: Path):
    model = quantized(gpt2, NF4Config(), dtype=torch.float32)
    assert len(quantized_layers(model)) == 2 * 4
    assert not any(layer.bias.requires_grad for layer in quantized_layers(model).values())
    model.save_pretrained(tmp_path / "codes")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "codes")
    assert_same_state(model, again)
    again.dequantize().save_pretrained(tmp_path / "dense")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    torch.testing.assert_close(logits(plain), logits(model))


def test_dequantize_gives_plain_layers(tmp_path: Path):
    model = quantized(config=NF4Config(), dtype=torch.float32)
    values = {name: layer.dequantize() for name, layer in quantized_layers(model).items()}
    plain = model.dequantize()
    assert not quantized_layers(plain) and not plain.is_quantized
    for name, value in values.items():
        linear = plain.get_submodule(name)
        assert type(linear) is torch.nn.Linear and torch.equal(linear.weight, value)
    plain.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_it_generates():
    tokens = quantized(config=NF4Config()).generate(
        TOKENS[:1, :8], max_new_tokens=4, min_new_tokens=4
    )
    assert tokens.shape == (1, 12)


def test_our_adapters_stand_on_it():
    model = qk.prepare_model(quantized(config=NF4Config()), qk.QLoRAConfig(rank=4, alpha=8))
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(layer.lora_b.grad.any() for layer in quantized_layers(model).values())
    with pytest.raises(qk.InputError, match="without adapter"):
        model.save_pretrained("unused")


def test_stock_peft_knows_the_layers_of_a_loaded_model():
    """Without another import: peft's own layer would train, and fail when it merges."""
    code = f"""
import peft
from transformers import AutoModelForCausalLM
from qlora_kernels.integrations.transformers import NF4Config
model = AutoModelForCausalLM.from_pretrained({str(TINY)!r}, quantization_config=NF4Config())
config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["up_proj"])
model = peft.get_peft_model(model, config)
print(type(model.get_submodule("model.model.layers.0.mlp.up_proj")).__name__)
model.merge_and_unload()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "QuantizedLoraLinear"
