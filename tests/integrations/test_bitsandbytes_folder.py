"""Folders that bitsandbytes wrote through transformers: every bit arrives, without bitsandbytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

import qlora_kernels as qk
from formats.peer import absmax_of, bits, dequantize_flat
from integrations.conftest import TINY, TOKENS, assert_same_state
from qlora_kernels.integrations.transformers import load_bitsandbytes
from qlora_kernels.nn import quantized_layers

WRITTEN = {
    "nf4": {},
    "nf4 double": {"bnb_4bit_use_double_quant": True},
    "fp4": {"bnb_4bit_quant_type": "fp4"},
    "fp4 double": {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "bf16 storage": {"bnb_4bit_quant_storage": torch.bfloat16},
    "float32 storage": {"bnb_4bit_quant_storage": torch.float32},
    "skipping": {"llm_int8_skip_modules": ["lm_head", "v_proj"]},
}


def write(folder: Path, source: Path = TINY, shards: str = "5GB", **options: object):
    """What bitsandbytes makes of the model, after it saved it."""
    config = BitsAndBytesConfig(**{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", **options})
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype=torch.bfloat16
    )
    model.save_pretrained(folder, max_shard_size=shards)
    return model


@pytest.mark.parametrize(
    ("name", "shards"), [*((name, "5GB") for name in WRITTEN), ("nf4 double", "100KB")]
)
def test_values_are_theirs_bit_for_bit(tmp_path: Path, name: str, shards: str):
    theirs = write(tmp_path, shards=shards, **WRITTEN[name])
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "100KB")
    model = load_bitsandbytes(tmp_path)
    layers = {n: m for n, m in theirs.named_modules() if isinstance(m, Linear4bit)}
    assert quantized_layers(model).keys() == layers.keys()
    for layer_name, layer in layers.items():
        state = layer.weight.quant_state
        codes = layer.weight.data.view(torch.uint8).view(-1, 1)
        values = dequantize_flat(
            codes, absmax_of(state), state.quant_type, state.blocksize, torch.bfloat16
        )
        ours = model.get_submodule(layer_name).dequantize()
        assert torch.equal(bits(ours).view(-1), bits(values)), layer_name
    for parameter_name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            assert torch.equal(parameter, theirs.get_parameter(parameter_name)), parameter_name


@pytest.mark.parametrize("name", ["nf4 double", "skipping"])
def test_it_is_saved_as_ours_and_loads_exactly(tmp_path: Path, name: str):
    write(tmp_path / "theirs", **WRITTEN[name])
    model = load_bitsandbytes(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    assert_same_state(model, AutoModelForCausalLM.from_pretrained(tmp_path / "ours"))
    assert any(n.endswith(".weight.codes") for n in load_file(tmp_path / "ours/model.safetensors"))


def test_gpt2(gpt2: Path, tmp_path: Path):
    theirs = write(tmp_path, gpt2)
    model = load_bitsandbytes(tmp_path)
    layer, peer = (m.transformer.h[1].attn.c_attn for m in (model, theirs))
    assert layer.out_features == 3 * layer.in_features
    torch.testing.assert_close(layer.bias, peer.bias, rtol=0, atol=0)
    assert not layer.bias.requires_grad
    plain = model.dequantize()
    assert plain.transformer.h[1].attn.c_attn.weight.shape == (32, 96)


def test_another_dtype_and_another_class(tmp_path: Path):
    write(tmp_path)
    model = load_bitsandbytes(tmp_path, dtype=torch.float32, device_map="cpu")
    assert model.dtype == torch.float32 == model(TOKENS).logits.dtype
    base = load_bitsandbytes(tmp_path, AutoModel)
    assert torch.equal(base.layers[1].mlp.up_proj.weight, model.model.layers[1].mlp.up_proj.weight)


def test_adapters_train_on_it(tmp_path: Path):
    write(tmp_path, bnb_4bit_use_double_quant=True)
    model = qk.prepare_model(load_bitsandbytes(tmp_path), qk.QLoRAConfig(rank=4, alpha=8))
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(layer.lora_b.grad.any() for layer in quantized_layers(model).values())


def test_bitsandbytes_is_not_imported(tmp_path: Path):
    write(tmp_path)
    program = f"""
import sys
sys.modules["bitsandbytes"] = None  # an import of it fails
from qlora_kernels.integrations.transformers import load_bitsandbytes
load_bitsandbytes({str(tmp_path)!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_refusals(tmp_path: Path):
    with pytest.raises(qk.InputError, match=r"4 bits of bitsandbytes, has quant_method None"):
        load_bitsandbytes(TINY)
    write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    in_8_bits = {"load_in_4bit": False, "load_in_8bit": True}
    changed = {**config, "quantization_config": {**config["quantization_config"], **in_8_bits}}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(qk.InputError, match="load_in_4bit False"):
        load_bitsandbytes(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(qk.InputError, match="should be safetensors"):
        load_bitsandbytes(tmp_path)
