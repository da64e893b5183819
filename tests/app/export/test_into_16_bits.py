"""Merged into 16 bits: as stock peft answers unmerged, rounded once, whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from app.export.conftest import KINDS, TINY, by_peft, logits
from qlora import cli
from qlora_kernels.formats.adapter_folder import read_adapter_folder


def export(*words: object) -> int:
    return cli.main(["export", *map(str, words)])


@pytest.fixture
def trained(bases, tmp_path: Path):
    """kind -> its peft model, and the folder that peft made of it."""

    def make(kind: str):
        theirs = by_peft(bases(kind), KINDS[kind])
        theirs.save_pretrained(tmp_path / "adapter")
        return theirs, tmp_path / "adapter"

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_answers_as_peft_does(bases, trained, tokens, tmp_path, capsys, kind: str):
    theirs, adapter = trained(kind)
    words = ["--model", bases(kind), "--adapter", adapter, "--output", tmp_path / "merged"]
    assert export(*words, "--format", "none", "--dtype", "float32", "--json") == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(merged, tokens), logits(theirs, tokens), rtol=1e-5, atol=1e-4)
    report = json.loads(capsys.readouterr().out)
    assert report["verification"]["share"] < 1e-4


def test_the_base_is_the_one_that_training_saw_and_rounding_happens_once(trained, tmp_path, capsys):
    _, adapter = trained("rslora")
    words = ["--model", TINY, "--adapter", adapter, "--output", tmp_path / "merged"]
    assert export(*words) == 0
    assert "verified: logits differ by" in capsys.readouterr().out
    merged, before = (
        load_file(tmp_path / "merged/model.safetensors"),
        load_file(TINY / "model.safetensors"),
    )
    factors = read_adapter_folder(adapter).layers
    assert merged.keys() == before.keys()
    for name, tensor in merged.items():
        layer = name.removesuffix(".weight")
        if not layer.endswith("_proj"):
            assert torch.equal(tensor, before[name]), "norms and embedding are as they were"
            continue
        exact = qk.dequantize(qk.quantize(before[name]), torch.float32).double()
        if layer in factors:
            a, b = factors[layer].a.double(), factors[layer].b.double()
            exact += factors[layer].scaling * b @ a
        half_a_step = torch.finfo(torch.bfloat16).eps / 2
        torch.testing.assert_close(tensor.double(), exact, rtol=half_a_step, atol=1e-7)


def test_the_original_weights_on_demand(trained, tmp_path):
    _, adapter = trained("rslora")
    words = ["--model", TINY, "--adapter", adapter, "--output", tmp_path / "merged"]
    assert export(*words, "--base-weights", "original") == 0
    merged, before = (
        load_file(tmp_path / "merged/model.safetensors"),
        load_file(TINY / "model.safetensors"),
    )
    name = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(merged[name], before[name]), "no adapter there: not a bit changes"


def test_everything_that_a_model_folder_needs_is_there(trained, tmp_path):
    _, adapter = trained("head")
    words = ["--model", TINY, "--adapter", adapter, "--output", tmp_path / "merged"]
    assert export(*words, "--dtype", "float16") == 0
    assert {f.name for f in TINY.iterdir()} - {"make.py"} == {
        f.name for f in (tmp_path / "merged").iterdir()
    }
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("float16", False)
    assert {t.dtype for t in load_file(tmp_path / "merged/model.safetensors").values()} == {
        torch.float16
    }


def shards(folder: Path, target: Path) -> Path:
    """The same model in several files."""
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(target, max_shard_size="300KB")
    for file in folder.glob("tokenizer*"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_shards_stay_shards(trained, tokens, tmp_path):
    theirs, adapter = trained("lora")
    model = shards(TINY, tmp_path / "shards")
    words = ["--model", model, "--adapter", adapter, "--output", tmp_path / "merged"]
    assert export(*words, "--format", "none", "--dtype", "float32") == 0
    files = sorted(f.name for f in (tmp_path / "merged").glob("*.safetensors"))
    assert files == sorted(f.name for f in model.glob("*.safetensors")) and len(files) > 2
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(merged, tokens), logits(theirs, tokens), rtol=1e-5, atol=1e-4)
    index = json.loads((tmp_path / "merged/model.safetensors.index.json").read_text())
    total = sum(t.nbytes for f in files for t in load_file(tmp_path / "merged" / f).values())
    assert index["metadata"]["total_size"] == total


REFUSALS = {
    "layers.9.mlp.down_proj.weight should be a weight of the model, is not": (
        lambda t: {k.replace("layers.0", "layers.9"): v for k, v in t.items()}
    ),
    "down_proj.weight should have an update of [128, 384], has [128, 127]": (
        lambda t: {k: v[:, :127].contiguous() if "lora_A" in k else v for k, v in t.items()}
    ),
    "should be finite": lambda t: {k: v * float("nan") for k, v in t.items()},
}


@pytest.mark.parametrize("text", REFUSALS)
def test_an_adapter_that_does_not_fit_leaves_nothing(trained, tmp_path, capsys, text: str):
    from safetensors.torch import save_file

    _, adapter = trained("rslora")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(REFUSALS[text](tensors), adapter / "adapter_model.safetensors")
    words = ["--model", TINY, "--adapter", adapter, "--output", tmp_path / "merged"]
    assert export(*words) == 2
    assert text in capsys.readouterr().err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--to", "16bit", "--output", "x"], "should have --model"),
        (["--to", "adapter", "--output", "x"], "should have --adapter"),
        (["--to", "4bit", "--model", "x"], "should have --output"),
        (["--to", "4bit", "--model", "x", "--output", "y", "--format", "int8"], "nf4 or fp4"),
        (
            ["--model", "x.gguf", "--adapter", "a", "--output", "y"],
            "should be a Hugging Face folder",
        ),
        (["--model", "absent", "--adapter", "a", "--output", "y"], "absent should hold a causal"),
    ],
)
def test_settings_that_cannot_work_are_refused(capsys, words: list[str], text: str):
    assert export(*words) == 2
    assert text in capsys.readouterr().err


def test_a_value_beyond_float16_is_refused(bases, tmp_path, capsys):
    theirs = by_peft(TINY, KINDS["rslora"])
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e6)
    theirs.save_pretrained(tmp_path / "adapter")
    words = ["--model", TINY, "--adapter", tmp_path / "adapter", "--output", tmp_path / "merged"]
    assert export(*words, "--dtype", "float16") == 2
    assert "should fit float16, does not" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
