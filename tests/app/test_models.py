"""Models load from folders; what does not load says why in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from qlora import models
from qlora.models import compute_dtype, load_model
from qlora_kernels.errors import InputError


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny model that a test may break."""
    return shutil.copytree(tiny, tmp_path / "model")


def with_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_folder_loads_with_its_tokenizer(tiny):
    model, tokenizer = load_model(tiny, "float32")
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert load_model(str(tiny), "bfloat16")[0].dtype == torch.bfloat16
    assert load_model(tiny)[0].dtype == compute_dtype()


def test_other_architectures_load(tiny, tmp_path):
    config = GPT2Config(vocab_size=1024, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, tmp_path)
    model, _ = load_model(tmp_path, "float32")
    assert type(model).__name__ == "GPT2LMHeadModel"


def test_dtype_follows_the_processor(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    for flags, dtype in {
        "flags\t\t: fpu avx2 avx512f avx512_bf16": torch.bfloat16,
        "flags\t\t: fpu amx_bf16": torch.bfloat16,
        "Features\t: fp asimd bf16": torch.bfloat16,
        "flags\t\t: fpu avx2 avx512f": torch.float32,
    }.items():
        cpuinfo.write_text(f"processor\t: 0\n{flags}\nbugs\t: bf16\n")
        monkeypatch.setattr(models, "CPUINFO", cpuinfo)
        assert compute_dtype("cpu") == dtype
    monkeypatch.setattr(models, "CPUINFO", tmp_path / "absent")
    assert compute_dtype("cpu") == torch.float32


def test_dtype_follows_the_gpu(monkeypatch):
    for has_bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, b=has_bf16: b
        )
        assert compute_dtype("cuda") == dtype


def test_unknown_dtype(tiny):
    message = "dtype should be one of auto, float32, bfloat16, float16, was 'bf16'"
    with pytest.raises(InputError, match=message):
        load_model(tiny, "bf16")


def test_places_that_hold_no_model(tmp_path):
    with pytest.raises(
        InputError, match=r"absent should be a model folder or .gguf file, is absent"
    ):
        load_model(tmp_path / "absent")
    with pytest.raises(InputError, match=r"should hold config.json, does not"):
        load_model(tmp_path)
    for name in ("model.bin", "model.gguf"):
        (tmp_path / name).write_bytes(b"GGUX")
        with pytest.raises(InputError, match=f"{name} should be a folder or GGUF file, is neither"):
            load_model(tmp_path / name)


def test_broken_config(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json should be JSON: Expecting property name"):
        load_model(copy)
    (copy / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(InputError, match=r"cannot read .*model type `abacus`"):
        load_model(copy)


def test_code_that_comes_with_a_model_is_not_run(copy):
    with_config(copy, model_type="own", auto_map={"AutoConfig": "own.Config"})
    (copy / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(InputError, match=r"cannot read .* contains custom code"):
        load_model(copy)


def test_broken_weights(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"AutoModelForCausalLM cannot read .*SafetensorError"):
        load_model(copy)
    weights.unlink()
    with pytest.raises(InputError, match=r"should hold weights \(\*.safetensors or \*.bin\), has"):
        load_model(copy)


def test_missing_tensors_are_never_invented(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    message = "should hold every tensor of the model, lacks 1, the first is model.layers.1.mlp.up"
    with pytest.raises(InputError, match=message):
        load_model(copy)


def test_tensors_of_another_shape(copy):
    with_config(copy, intermediate_size=256)
    message = (
        r"model.layers.0.mlp.down_proj.weight should have the shape \[128, 256\] .*was \[128, 384\]"
    )
    with pytest.raises(InputError, match=message):
        load_model(copy)


def test_unused_tensors_are_told(copy, caplog):
    tensors = load_file(copy / "model.safetensors") | {"extra.weight": torch.zeros(1)}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    load_model(copy)
    assert "1 tensors have no use, as extra.weight" in caplog.text


def test_missing_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"AutoTokenizer cannot read"):
        load_model(copy)
