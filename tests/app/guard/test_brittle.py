"""Which layers are named, and how well codes alone tell their error."""

import math

import pytest
import torch

import qlora_kernels as qk
from qlora.guard.watch.brittle import Gradients, gradients_by_module, most_brittle, shares
from qlora.guard.watch.code_noise import code_noise
from qlora.guard.watch.update_ratio import SAMPLES, UpdateMeter
from qlora.train.action import advise


@pytest.mark.parametrize("format", ["nf4", "fp4", "int8", "nf4-tuned"])
@pytest.mark.parametrize("outliers", [False, True])
def test_codes_tell_the_error_of_a_weight_that_is_gone(format: str, outliers: bool):
    """Within a quarter: enough to rank layers, which differ by factors."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 512, generator=generator)
    if outliers:
        weight[:, ::61] *= 12
    codes = qk.quantize(weight, format=format)
    error = float((qk.dequantize(codes) - weight).norm() / weight.norm())
    assert code_noise(codes) == pytest.approx(error, rel=0.25)


def test_outliers_make_codes_coarser():
    plain = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    spiked = plain.clone()
    spiked[:, ::64] *= 20
    assert code_noise(qk.quantize(spiked)) > code_noise(qk.quantize(plain))
    assert code_noise(qk.quantize(torch.zeros(4, 64))) == 0.0


def test_brittle_is_where_gradients_are_large_and_codes_coarse(model):
    weight = model.model.layers[2].mlp.down_proj.weight
    weight.data[:, ::32] *= 30
    qk.prepare_model(model, qk.QLoRAConfig(rank=2))
    names = list(qk.nn.quantized_layers(model))
    alike = Gradients(dict.fromkeys(names, 1.0), {})
    assert most_brittle(model, alike)[0] == "model.layers.2.mlp.down_proj"
    one = Gradients({n: 100.0 if "0.self_attn.q_proj" in n else 1.0 for n in names}, {})
    assert most_brittle(model, one)[0] == "model.layers.0.self_attn.q_proj"
    unknown = Gradients({}, dict.fromkeys(names, 7))
    assert most_brittle(model, unknown)[0] == "model.layers.2.mlp.down_proj"


def test_norms_and_counts_by_module():
    parameters = {
        f"{layer}.{part}": torch.nn.Parameter(torch.zeros(2, 2))
        for layer in ("x", "y")
        for part in ("lora_a", "lora_b")
    }
    for name, parameter in parameters.items():
        parameter.grad = torch.full((2, 2), 1.0 if name.startswith("x") else 2.0)
    gradients = gradients_by_module(parameters)
    assert list(gradients.norms) == ["y", "x"]
    assert gradients.norms["x"] == pytest.approx(math.sqrt(8))
    assert shares(gradients) == "y (80%), x (20%)"
    parameters["y.lora_b"].grad[0, :] = math.nan
    assert gradients_by_module(parameters).nonfinite == {"y": 2}


def test_the_advice_is_flags_that_exist(settings):
    made = settings(learning_rate=3e-4, max_norm=1.0).following(1000)
    assert advise(made, ["a.b", "c.d"]) == (
        "try --learning-rate 0.0001, or --max-norm 0.33, or more bits where gradients meet coarse"
        " codes: --format-pattern a.b=int8 c.d=int8"
    )
    assert "a.b=none" in advise(settings(format="int8").following(1000), ["a.b"])
    assert "--format-pattern" not in advise(made, [])


def test_a_lower_rate_stays_with_the_ratio_of_the_run(settings):
    """Given alone, a rate means plain LoRA: that of B would fall 48 times instead of 3."""
    made = settings(learning_rate=None, max_norm=1.0).following(1000)
    assert advise(made, []) == (
        "try --learning-rate 1.7e-05 --lora-plus-ratio 16, or --max-norm 0.33"
    )
    lower = settings(learning_rate=1.7e-5, lora_plus_ratio=16.0).following(1000).decided
    assert lower.lora_plus_ratio == made.decided.lora_plus_ratio


def test_the_update_ratio_of_small_parameters_is_exact():
    parameters = [torch.randn(3, 5), torch.randn(7)]
    meter = UpdateMeter(parameters)
    before, change = meter.sample(), [0.01 * torch.randn_like(p) for p in parameters]
    flat = torch.cat([p.flatten() for p in parameters])
    expected = torch.cat([c.flatten() for c in change]).norm() / flat.norm()
    for parameter, c in zip(parameters, change, strict=True):
        parameter += c
    assert meter.ratio_since(before) == pytest.approx(float(expected), rel=1e-4)


def test_of_large_ones_a_sample_is_enough():
    """Within 4 standard errors of a sample's mean square; all components of a rank are seen."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4096, 16, generator=generator)
    small = torch.randn(100, generator=generator)
    meter = UpdateMeter([wide, small])
    before = meter.sample()
    wide[:, 3] += 0.1
    true = math.sqrt(4096 * 0.01) / float(torch.cat([wide.flatten(), small]).norm())
    assert meter.ratio_since(before) == pytest.approx(true, rel=4 / math.sqrt(SAMPLES / 16))
    assert UpdateMeter([torch.zeros(4)]).ratio_since(torch.zeros(4)) == 0.0
