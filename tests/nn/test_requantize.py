"""Formats per layer, and another format for a layer of a live model."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, QLoRALinear, quantized_layers

CONFIG = QLoRAConfig(rank=4, alpha=8)
MIXED = {r"mlp\.down_proj": "int8", "o_proj": "none", "*": "nf4-tuned"}


def test_formats_reach_their_layers(model):
    qk.prepare_model(model, replace(CONFIG, format=MIXED, scale_search=True))
    for name, layer in quantized_layers(model).items():
        last = name.rpartition(".")[2]
        assert layer.format == {"down_proj": "int8", "o_proj": "none"}.get(last, "nf4-tuned")


def test_without_a_star_the_others_are_nf4(model):
    layers = quantized_layers(qk.prepare_model(model, replace(CONFIG, format={"q_proj": "fp4"})))
    assert {layer.format for name, layer in layers.items() if "q_proj" not in name} == {"nf4"}


def test_the_search_reaches_the_layer():
    linear = nn.Linear(64, 8)
    layer = QLoRALinear.from_linear(linear, replace(CONFIG, scale_search=True))
    truth = qk.quantize(linear.weight, scale_search=True)
    assert torch.equal(layer.dequantize(), qk.dequantize(truth))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"format": {"q_proj": "nf5"}}, "format should be one of nf4, fp4, int8, nf4-tuned"),
        ({"format": {"(": "nf4"}}, "a pattern should be a regular expression"),
        ({"format": "int8", "scale_search": True}, "scale_search should be False for int8"),
        ({"format": "none", "scale_search": True}, "scale_search should be False for format none"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, text: str):
    with pytest.raises(qk.InputError, match=text.replace("(", r"\(")):
        replace(CONFIG, **options)


def test_a_pattern_without_a_layer_is_refused(model):
    with pytest.raises(
        qk.InputError, match=r"format should match a linear layer, 'down_prj'.*down"
    ):
        qk.prepare_model(model, replace(CONFIG, format={"down_prj": "int8"}))


def adapted(dora: bool = False) -> tuple[nn.Linear, QLoRALinear]:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)
    layer = QLoRALinear.from_linear(linear, replace(CONFIG, dora=dora))
    nn.init.normal_(layer.lora_b, std=0.1)
    return linear, layer


@pytest.mark.parametrize("format", ["nf4", "fp4", "int8", "nf4-tuned", "none"])
@pytest.mark.parametrize("dora", [False, True])
def test_the_layer_is_as_if_made_in_that_format(format: str, dora: bool):
    linear, layer = adapted(dora)
    before = dict(layer.named_parameters())
    x = torch.randn(3, 96)
    layer(x).sum().backward()
    qk.requantize(layer, format, source=linear.weight)
    assert {n: id(p) for n, p in layer.named_parameters()} == {n: id(p) for n, p in before.items()}
    fresh = QLoRALinear.from_linear(linear, replace(CONFIG, format=format, dora=dora))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.dequantize(), layer.dequantize())
    assert torch.equal(fresh(x), layer(x))
    assert layer.get_extra_state().equal(fresh.get_extra_state())


def test_without_a_source_the_old_error_stays():
    linear, layer = adapted()
    present = layer.dequantize()
    qk.requantize(layer, "int8")
    assert qk.quantization_error(present, layer.base) < 0.01
    assert qk.quantization_error(linear.weight, layer.base) > 0.05


def test_a_source_from_a_file(tmp_path):
    linear, layer = adapted()
    save_file({"a": torch.zeros(2)}, tmp_path / "0.safetensors")
    save_file({"layer.weight": linear.weight.detach()}, tmp_path / "1.safetensors")
    qk.requantize(layer, "int8", source=(tmp_path, "layer.weight"))
    assert torch.equal(layer.dequantize(), qk.dequantize(qk.quantize(linear.weight, "int8")))
    with pytest.raises(qk.InputError, match="should hold a tensor other, does not"):
        qk.requantize(layer, "int8", source=(tmp_path, "other"))
    (tmp_path / "1.safetensors").write_bytes(b"torn")
    with pytest.raises(qk.InputError, match="readable safetensors file"):
        qk.requantize(layer, "int8", source=(tmp_path / "1.safetensors", "layer.weight"))


def test_a_wrong_source_changes_nothing():
    linear, layer = adapted()
    before = layer.dequantize()
    bad = linear.weight.detach().clone()
    bad[3, 5] = float("inf")
    for format, source, text in (
        ("int8", linear.weight.T, r"source should be \[n, k\] with n = 40, k = 96"),
        ("int8", bad, r"was inf at \[3, 5\]"),
        ("none", bad, "source should be finite"),
        ("nf5", linear.weight, "format should be one of"),
    ):
        with pytest.raises(qk.InputError, match=text):
            qk.requantize(layer, format, source=source)
    assert torch.equal(layer.dequantize(), before) and layer.format == "nf4"
    with pytest.raises(qk.InputError, match="layer should be a QLoRALinear, was Linear"):
        qk.requantize(linear, "int8")


def test_a_source_beyond_the_dtype_of_the_layer_is_refused():
    layer = QLoRALinear.from_linear(nn.Linear(64, 32).half(), QLoRAConfig())
    with pytest.raises(qk.InputError, match=r"source should be finite in torch.float16"):
        qk.requantize(layer, "none", source=torch.full((32, 64), 1e6))


def test_the_error_of_a_weight():
    w = torch.randn(33, 70)
    q = qk.quantize(w)
    truth = (w.double() - qk.dequantize(q).double()).norm() / w.double().norm()
    assert qk.quantization_error(w, q) == pytest.approx(truth.item(), rel=1e-5)
    assert qk.quantization_error(torch.zeros(4, 64), qk.quantize(torch.zeros(4, 64))) == 0.0
    with pytest.raises(qk.InputError, match=r"w should be \[33, 70\]"):
        qk.quantization_error(w.T, q)
