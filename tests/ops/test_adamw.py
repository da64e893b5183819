"""The op and its formats: nearest codes, bitsandbytes' trajectory, the gate, and refusals."""

import functools

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.formats.blockwise8 import BLOCK, decode, encode, zero_code
from qlora_kernels.formats.codebooks import dynamic_map
from qlora_kernels.ops.adamw import (
    Gate,
    Hyperparameters,
    Segment,
    adamw_step,
    gradient_gate,
    guarded_step,
)

CPU = torch.device("cpu")
HYPER = Hyperparameters(1e-3, 0.9, 0.999, 1e-8, 0.01)
BACKENDS = ("cpu", "reference")


@pytest.mark.parametrize("signed", [True, False])
def test_maps_are_bitsandbytes(signed: bool):
    theirs = bnb.functional.create_dynamic_map(signed=signed)
    assert torch.equal(dynamic_map(CPU, signed), theirs)
    assert theirs[zero_code(signed)] == 0


@pytest.mark.parametrize("signed", [True, False])
def test_encoding_is_the_nearest_by_brute_force(signed: bool):
    values = torch.randn(5 * BLOCK - 3) * torch.randn(5 * BLOCK - 3).exp()
    values[:BLOCK] = 0
    values[BLOCK : 2 * BLOCK] *= 1e-41  # too small for a scale: zeros
    values = values if signed else values.abs()
    codes, absmax = encode(values, signed)
    scale = absmax.repeat_interleave(BLOCK)[: len(values)]
    scaled = torch.where(scale > 0, values * (1 / scale), 0.0).double()
    distances = (scaled[:, None] - dynamic_map(CPU, signed).double()).abs()
    assert torch.equal(codes.long(), distances.argmin(dim=1))  # the first of equals
    assert absmax[0] == absmax[1] == 0 and not decode(codes, absmax, signed)[: 2 * BLOCK].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_without_a_guard_counts_and_takes_gradients_of_any_shape(backend: str):
    p, g = torch.randn(2, 300)
    (ours, theirs) = (Segment(p.clone(), *torch.zeros(2, 300), torch.zeros(())) for _ in range(2))
    with qk.use_backend(backend):
        gate = guarded_step([ours], [g.view(3, 100)], [HYPER], None)
        theirs.step.fill_(1)
        adamw_step([theirs], [g], [HYPER], Gate.open(CPU))
    assert gate.skip == 0 and ours.step == 1
    assert torch.equal(ours.parameter, theirs.parameter) and torch.equal(
        ours.exp_avg, theirs.exp_avg
    )


@functools.cache
def steps_beside_bitsandbytes(dtype: torch.dtype) -> tuple[float, float]:
    """Mean absolute and relative difference of parameters over 50 steps, resynchronised each."""
    torch.manual_seed(3)
    ours = nn.Parameter((0.1 * torch.randn(64, 256)).to(dtype))
    theirs = nn.Parameter(ours.detach().clone())
    a = qk.optim.AdamW([ours], lr=1e-3, bits=8, master_weights=False)
    b = bnb.optim.AdamW8bit([theirs], lr=1e-3, weight_decay=1e-2)
    absolute, relative = [], []
    for _ in range(50):
        ours.grad = 0.01 * torch.randn(64, 256).to(dtype)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
        error = (ours - theirs).detach().abs().float()
        absolute.append(error.mean().item())
        relative.append((error / (theirs.detach().abs().float() + 1e-9)).mean().item())
        ours.data.copy_(theirs)
    return sum(absolute) / 50, sum(relative) / 50


def test_the_trajectory_is_bitsandbytes():
    """The bounds are those of bitsandbytes' own test of its 8-bit Adam in float32."""
    absolute, relative = steps_beside_bitsandbytes(torch.float32)
    assert absolute < 6e-5 and relative < 6e-4


def test_the_trajectory_is_bitsandbytes_in_bfloat16():
    """One rounding of bfloat16 more: half an ulp on average, a quarter of eps of each value."""
    absolute, relative = steps_beside_bitsandbytes(torch.bfloat16)
    eps = torch.finfo(torch.bfloat16).eps
    assert absolute < 6e-5 + 0.1 * eps / 4 and relative < 6e-4 + eps / 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gate_is_torchs_norm_and_clipping(backend: str):
    gradients = [torch.randn(700), torch.randn(33).bfloat16()]
    parameters = [nn.Parameter(torch.zeros_like(g.float())) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.float() / 4
    norm = nn.utils.clip_grad_norm_(parameters, 0.5)
    with qk.use_backend(backend):
        gate = gradient_gate(gradients, 0.5, torch.tensor([4.0]), torch.tensor([0.0]))
    torch.testing.assert_close(gate.norm, norm)
    torch.testing.assert_close(gradients[0] * gate.scale, parameters[0].grad)
    assert gate.skip == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_bad_value_closes_the_gate(backend: str):
    largest = torch.full((300,), torch.finfo(torch.float32).max)
    with qk.use_backend(backend):
        assert gradient_gate([largest, largest]).skip == 0  # its norm is finite in double
        for bad in (torch.nan, torch.inf, -torch.inf):
            spoiled = torch.zeros(300)
            spoiled[299] = bad
            assert gradient_gate([largest, spoiled]).skip == 1
        found = torch.tensor([1.0])
        assert gradient_gate([torch.ones(3)], found_inf=found).skip == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_gate_changes_nothing(backend: str):
    tensors = torch.ones(3, 10)
    segment = Segment(*tensors, torch.tensor(1.0))
    closed = Gate.open(CPU)._replace(skip=torch.tensor(1.0))
    with qk.use_backend(backend):
        adamw_step([segment], [torch.ones(10)], [HYPER], closed)
    assert (tensors == 1).all()


def test_what_does_not_fit_is_refused():
    p, m, v, step = *torch.zeros(3, 300), torch.tensor(1.0)
    with pytest.raises(qk.InputError, match=r"adamw segment: exp_avg should be \[n\] with n = 300"):
        Segment(p, m[:299], v, step)
    with pytest.raises(qk.InputError, match="exp_avg should be uint8, was float32"):
        Segment(p, m, v, step, torch.zeros(2), torch.zeros(2))
    with pytest.raises(qk.InputError, match=r"exp_avg_absmax should be \[blocks\]"):
        Segment(p, m.byte(), v.byte(), step, torch.zeros(3), torch.zeros(2))
    with pytest.raises(qk.InputError, match="should both have an absmax or neither"):
        Segment(p, m.byte(), v.byte(), step, torch.zeros(2))
    with pytest.raises(qk.InputError, match="master should be None for a float32 parameter"):
        Segment(p, m, v, step, master=torch.zeros(300))
    segment, gate = Segment(p, m, v, step), Gate.open(CPU)
    with pytest.raises(qk.InputError, match=r"gradient should have 300 elements, was \[299\]"):
        adamw_step([segment], [torch.zeros(299)], [HYPER], gate)
    with pytest.raises(qk.InputError, match="gradient should be float32 or bfloat16 or float16"):
        adamw_step([segment], [torch.zeros(300).double()], [HYPER], gate)
    with pytest.raises(qk.InputError, match="should be equally many, were 1, 2 and 1"):
        adamw_step([segment], [p, p], [HYPER], gate)
