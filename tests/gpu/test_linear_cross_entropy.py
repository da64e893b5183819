"""The loss head on the GPU against torch's cross entropy, by the error rule."""

from dataclasses import replace

import pytest
import torch

from gpu.placed import forced, on_cpu, some
from ops.test_linear_cross_entropy import CASES, Case, ours, outputs, plain, tensors
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.testing.cases import FLOAT_DTYPES
from qlora_kernels.testing.error_rule import ErrorRule

LARGE = Case(300, 576, 4096)
SEEDS = 40


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_gradients(device: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in some((*CASES, LARGE)):
        given = tensors(case, dtype)
        with forced():
            found = on_cpu(outputs(ours, case, tuple(t.to(device) for t in given)))
        yardstick = outputs(plain, case, given)
        wide = outputs(plain, case, (given[0].double(), given[1].double(), given[2]))
        for name in ("dhidden", "dhead"):
            rule.add(str(case), name, found[name], yardstick[name], wide[name])
    rule.check()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_loss(device: str, dtype: torch.dtype):
    """One number a case: only many of them tell a bias from chance."""
    rule = ErrorRule(dtype)
    for case in (replace(c, seed=seed) for seed in range(SEEDS) for c in CASES):
        given = tensors(case, dtype)
        with forced():
            found = ours(case, *(t.to(device) for t in given)).cpu()
        truth = plain(case, given[0].double(), given[1].double(), given[2])
        rule.add(str(case), "loss", found, plain(case, *given), truth)
    rule.check()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_a_captured_step_replays(device: str, dtype: torch.dtype):
    """All rows go through the kernel in a CUDA graph; the loss is that of the labelled ones."""
    if interpreting():
        pytest.skip("there is no CUDA graph without a GPU")
    rule = ErrorRule(dtype)
    given = tensors(CASES[3], dtype)
    there = tuple(t.to(device) for t in given)
    with forced():
        outputs(ours, CASES[3], there)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = outputs(ours, CASES[3], there)
        graph.replay()
    yardstick = outputs(plain, CASES[3], given)
    wide = outputs(plain, CASES[3], (given[0].double(), given[1].double(), given[2]))
    for name, found in on_cpu(captured).items():
        rule.add(str(CASES[3]), name, found, yardstick[name], wide[name])
    rule.check_each()


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    given = tuple(t.to(device) for t in tensors(CASES[1], torch.bfloat16))
    with forced():
        assert all(t.isfinite().all() for t in outputs(ours, CASES[1], given).values())
