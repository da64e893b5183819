"""A folder of `qlora quantize` as the base of export and merge: what the dense one gives."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qlora import cli

# peft asks transformers for what transformers calls by another name now.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def qlora(*words: object) -> int:
    return cli.main(list(map(str, words)))


@pytest.fixture
def stored(tiny: Path, tmp_path: Path) -> Path:
    assert qlora("quantize", tiny, "-o", tmp_path / "stored", "--json") == 0
    return tmp_path / "stored"


def adapter(tiny: Path, folder: Path, seed: int = 3, **options: object) -> Path:
    """By stock peft."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    chosen = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(seed)
    tuned = peft.get_peft_model(model, peft.LoraConfig(**(chosen | options)))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dora", [False, True])
def test_export_in_16_bits_is_that_of_the_dense_folder(tiny, stored, tmp_path, capsys, dora):
    tuned = adapter(tiny, tmp_path / "adapter", use_dora=dora)
    for name, model in (("dense", tiny), ("codes", stored)):
        words = ["export", "--model", model, "--adapter", tuned, "--output", tmp_path / name]
        assert qlora(*words, "--json") == 0
    dense, codes = weights(tmp_path / "dense"), weights(tmp_path / "codes")
    assert dense.keys() == codes.keys()
    assert all(torch.equal(tensor, codes[name]) for name, tensor in dense.items())
    assert "quantization_config" not in json.loads((tmp_path / "codes/config.json").read_text())


def test_export_in_4_bits_is_that_of_the_dense_folder(tiny, stored, tmp_path):
    for name, model in (("dense", tiny), ("codes", stored)):
        assert qlora("export", "--to", "4bit", "--model", model, "--output", tmp_path / name) == 0
    dense, codes = weights(tmp_path / "dense"), weights(tmp_path / "codes")
    assert dense.keys() == codes.keys()
    assert all(torch.equal(tensor, codes[name]) for name, tensor in dense.items())


def test_dora_merges_over_the_codes_are_those_over_the_dense_folder(tiny, stored, tmp_path):
    parents = [adapter(tiny, tmp_path / f"a{i}", seed=i, use_dora=True) for i in (1, 2)]
    for name, model in (("dense", tiny), ("codes", stored)):
        assert qlora("merge", *parents, "--base", model, "-o", tmp_path / name, "--rank", 8) == 0
    dense, codes = (
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("dense", "codes")
    )
    assert dense.keys() == codes.keys()
    torch.testing.assert_close(dense, codes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "int8"], "was asked for as format int8"),
        (["--base-weights", "original"], "was asked for as format none"),
        (["--format-pattern", "q_proj=none"], "was asked for as format none"),
        (["--format-pattern", "q_prj=int8"], "'q_prj' matches none; nearest: q_proj"),
    ],
)
def test_another_format_is_refused(tiny, stored, tmp_path, capsys, options, message):
    tuned = adapter(tiny, tmp_path / "adapter")
    words = ["export", "--model", stored, "--adapter", tuned, "--output", tmp_path / "merged"]
    assert qlora(*words, *options) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "merged").exists()
