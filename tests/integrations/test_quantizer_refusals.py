"""What cannot be loaded is refused in one line, with the name of what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from integrations.conftest import TINY, assert_same_state
from qlora_kernels import InputError
from qlora_kernels.integrations.transformers import NF4Config

LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "dense"))


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(TINY, quantization_config=NF4Config())
    model.save_pretrained(tmp_path / "codes")
    return tmp_path / "codes"


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    how(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def refused(folder: Path, message: str, **options: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        AutoModelForCausalLM.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_not_finite(folder: Path):
    change(folder, lambda tensors: tensors[f"{LAYER}.weight"][3, 4:5].fill_(float("nan")))
    message = rf"{LAYER}.weight: .* should be finite.*\[3, 4\]"
    refused(folder, message, quantization_config=NF4Config())


def test_a_missing_weight(folder: Path):
    change(folder, lambda tensors: tensors.pop(f"{LAYER}.weight"))
    refused(folder, f"{LAYER}.weight .*is missing", quantization_config=NF4Config())


@pytest.mark.parametrize("part", ["codes", "scales", "spec"])
def test_missing_parts(codes: Path, part: str):
    change(codes, lambda tensors: tensors.pop(f"{LAYER}.weight.{part}"))
    refused(codes, rf"{LAYER}.weight: .*should hold weight\.{part}")


def test_all_parts_missing(codes: Path):
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(LAYER)]:
            tensors.pop(name)

    change(codes, drop)
    refused(codes, f"{LAYER}.weight .*is missing")


def test_a_config_that_says_something_else(codes: Path):
    config = json.loads((codes / "config.json").read_text())
    config["quantization_config"]["block_size"] = 128
    (codes / "config.json").write_text(json.dumps(config))
    refused(codes, "block_size=128.*as config.json says, was .*block_size=64")


def test_layers_on_the_disk(codes: Path):
    refused(codes, "in memory, was disk", device_map={"": "disk"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "nf5"}, "format should be one of"),
        ({"format": "none"}, "should quantize something"),
        ({"block_size": 63}, "block_size should be one of"),
        ({"format": "int8", "scale_search": True}, "scale_search should be False"),
        ({"quant_method": "bitsandbytes"}, "quant_method should be qlora_kernels"),
    ],
)
def test_values_that_make_no_sense(fields: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        NF4Config(**fields)


@pytest.mark.parametrize("format", ["none", "int8"])
def test_saving_what_the_config_does_not_say(codes: Path, tmp_path: Path, format: str):
    """The folder could not be read again; written with plain layers it can."""
    model = AutoModelForCausalLM.from_pretrained(codes)
    qk.requantize(model.get_submodule(LAYER), format)
    with pytest.raises(InputError, match=rf"{LAYER} should be in .*nf4.*dequantize\(\)"):
        model.save_pretrained(tmp_path / "other")
    model.dequantize().save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert_same_state(again, model)
