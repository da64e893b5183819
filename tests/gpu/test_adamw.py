"""AdamW on the GPU: the reference's steps, its codes, and a step that a CUDA graph can hold."""

import pytest
import torch

import qlora_kernels as qk
from gpu.placed import forced
from kernels import test_adamw as kernels
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.ops.adamw import Gate, adamw_step, gradient_gate
from qlora_kernels.testing.cases import FLOAT_DTYPES

# The sizes of adapters of a model of width 4096, 8-bit, beside small ones.
LARGE = ((16 * 4096, 8, True), (16 * 14336, 8, True), (100_003, 32, True), *kernels.SHAPES)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_steps(device: str, dtype: torch.dtype):
    with forced():
        kernels.test_steps_are_those_of_the_reference(torch.device(device), dtype)


def test_error_rule(device: str):
    with forced():
        kernels.test_the_error_rule_over_32_bit_states(torch.device(device))


def test_codes(device: str):
    with forced():
        kernels.test_codes_are_the_exact_nearest(torch.device(device))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_a_captured_step_replays(device: str, dtype: torch.dtype):
    """Three replays give the bits of three calls: nothing is copied to the GPU or waited for."""
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU")
    ours = kernels.segments(dtype, torch.device(device), LARGE)
    gradients, hyper = kernels.gradients_of(ours, 0), [kernels.HYPER] * len(ours)
    eager, replayed = kernels.copied(ours), kernels.copied(ours)

    def step(made: list) -> None:
        kernels.advance(made)
        adamw_step(made, gradients, hyper, gradient_gate(gradients, max_norm=1.0))

    with forced():
        for _ in range(4):
            step(eager)
        step(replayed)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(replayed)
        for _ in range(3):
            graph.replay()
    for one, other in zip(eager, replayed, strict=True):
        for name in kernels.FIELDS:
            a, b = getattr(one, name), getattr(other, name)
            assert a is None or torch.equal(a, b), name


def test_an_optimizer_step_waits_for_nothing(device: str):
    if interpreting():
        pytest.skip("there is nothing to wait for without a GPU")
    parameters = [torch.nn.Parameter(torch.randn(n, device=device)) for n in (64, 8192, 5000)]
    optimizer = qk.optim.AdamW(parameters, bits=8, max_gradient_norm=1.0)
    with forced():
        for _ in range(3):
            for p in parameters:
                p.grad = torch.randn_like(p)
            torch.cuda.set_sync_debug_mode("default" if not optimizer.state else "error")
            optimizer.step()
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    ours = kernels.segments(torch.bfloat16, torch.device(device))
    kernels.advance(ours)
    with forced():
        gradients = kernels.gradients_of(ours, 0)
        adamw_step(ours, gradients, [kernels.HYPER] * len(ours), Gate.open(torch.device(device)))
    assert all(s.parameter.isfinite().all() for s in ours)
