"""What cannot be quantized or loaded is refused in one line, and nothing is written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import qlora_kernels as qk
from qlora import cli
from qlora.models import load_model
from qlora_kernels.errors import InputError
from qlora_kernels.nn import quantized_layers

LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def stored(tiny, tmp_path):
    """The tiny model's folder of codes, which a test may break."""
    assert cli.main(["quantize", str(tiny), "-o", str(tmp_path / "stored")]) == 0
    return tmp_path / "stored"


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(capsys, *words):
    assert cli.main(["quantize", *map(str, words)]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    return line


def test_what_is_no_dense_model(tiny, stored, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "out"
    assert "MODEL should be given" in refused(capsys, "-o", out)
    assert "--output should be given" in refused(capsys, tiny)
    assert "should be another folder" in refused(capsys, tiny, "-o", tiny)
    assert "should be a model folder, was" in refused(capsys, tiny / "config.json", "-o", out)
    assert "is quantized already (qlora_kernels)" in refused(capsys, stored, "-o", out)
    assert "scale_search should be False" in refused(
        capsys, tiny, "-o", out, "--format", "int8", "--scale-search"
    )
    calibrate = ("-o", out, "--calibrate", tmp_path / "prose.txt")
    assert "should come with --scale-search" in refused(capsys, tiny, *calibrate)
    tuned = ("-o", out, "--format", "nf4-tuned", "--calibrate")
    assert "--calibrate should be a text, was" in refused(capsys, tiny, *tuned, tiny / "none.txt")
    (tmp_path / "short.txt").write_text("too short")
    assert "512 tokens or more" in refused(capsys, tiny, *tuned, tmp_path / "short.txt")
    assert not out.exists()


def test_a_broken_model_leaves_nothing(tiny, tmp_path, capsys):
    broken, out = shutil.copytree(tiny, tmp_path / "broken"), tmp_path / "out"

    def spoil(tensors):
        tensors[LAYER][3, 4] = torch.nan

    rewrite(broken, spoil)
    assert f"quantize: {LAYER}: " in refused(capsys, broken, "-o", out)
    rewrite(broken, lambda tensors: tensors.pop("model.norm.weight"))
    assert "should hold model.norm.weight" in refused(capsys, broken, "-o", out)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


@pytest.mark.parametrize(
    "asked", [{"format": "int8"}, {"format": "none"}, {"block_size": 128}, {"double_quant": False}]
)
def test_another_format_than_the_stored(stored, asked):
    model, _ = load_model(stored)
    message = r"q_proj should be asked for as it is stored, format nf4, block_size 64, double"
    with pytest.raises(InputError, match=message):
        qk.prepare_model(model, qk.QLoRAConfig(**asked))
    assert all(layer.lora_a is None for layer in quantized_layers(model).values())


def test_a_quantized_layer_is_not_trained_whole(stored):
    with pytest.raises(InputError, match=r"should be dense, model\.layers\.0\.\S+q_proj is"):
        qk.prepare_model(load_model(stored)[0], qk.QLoRAConfig(modules_to_save=("q_proj",)))
    qk.prepare_model(load_model(stored)[0], qk.QLoRAConfig(modules_to_save=("norm",)))


def test_training_everything_needs_dense_weights(stored, tmp_path, capsys):
    data = tmp_path / "data.txt"
    data.write_text("To be, or not to be: that is the question.\n" * 20)
    full = ["--method", "full", "--format", "none", "--validation-split", "0"]
    words = ["--model", stored, "--data", data, "--output", tmp_path / "run"]
    assert cli.main(["train", *full, *map(str, words)]) == 2
    assert "model should be dense for method full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"lacks 1, the first is model\.norm\.weight"),
        (lambda t: t.pop(f"{LAYER}.codes"), rf"should hold {LAYER}\.codes"),
        (lambda t: t.update({f"{LAYER}.codes": torch.zeros(3, 1).byte()}), "codes of a nf4 weight"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), r"shape \[128\] of config"),
        (lambda t: t.update({"model.what.weight": torch.ones(3)}), "should be a part of the model"),
        (lambda t: t.update({"model.norm.what": torch.ones(3)}), "should be a tensor of the model"),
        (
            lambda t: t.update(qk.quantize(torch.ones(8, 8)).state_dict(LAYER)),
            r"shape \[384, 128\] of config\.json, was \[8, 8\]",
        ),
        (
            lambda t: t.update(qk.quantize(torch.ones(8, 8)).state_dict("model.norm.weight")),
            "model.norm should be a linear layer",
        ),
    ],
)
def test_folders_that_lie(stored, change, message):
    rewrite(stored, change)
    with pytest.raises(InputError, match=message):
        load_model(stored)


def test_a_config_that_lies(stored):
    fields = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps(fields | {"model_type": "what"}))
    with pytest.raises(InputError, match="should hold a causal LM"):
        load_model(stored)
