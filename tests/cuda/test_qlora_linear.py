"""`qlora_linear` of few rows against float64, by the error rule, whatever the order of threads."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from ops.few_rows import FEW
from ops.linear_formula import formula, in_float64
from qlora_kernels.ops.qlora_linear.cuda_plan import MAX_ROWS
from qlora_kernels.testing.cases import (
    DORA_CASES,
    FLOAT_DTYPES,
    LINEAR_CASES,
    LinearCase,
    LinearProblem,
    linear_problem,
)
from qlora_kernels.testing.error_rule import ErrorRule

CASES = (*FEW, *(case for case in (*LINEAR_CASES, *DORA_CASES[:4]) if case.m <= MAX_ROWS))


def problem_of(case: LinearCase, dtype: torch.dtype) -> LinearProblem:
    with qk.use_backend("reference"):
        return linear_problem(case, dtype)


def forward(problem: LinearProblem) -> torch.Tensor:
    adapter, norm = problem.adapter, None
    if adapter is not None and adapter.magnitude is not None:
        with qk.use_backend("reference"):
            norm = qk.dora_column_norm(problem.q, adapter)
    with torch.no_grad():
        return qk.qlora_linear(
            problem.x, problem.q, adapter, problem.bias, seed=problem.seed, column_norm=norm
        )


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_by_the_error_rule(cuda: None, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in CASES:
        problem = problem_of(case, dtype)
        ours = forward(problem)
        with qk.use_backend("reference"):
            plain, truth = formula(problem), formula(in_float64(problem))
        rule.add(str(case), "y", ours, plain, truth)
    rule.check()


@pytest.mark.parametrize("case", FEW[:4], ids=str)
def test_no_schedule_changes_a_bit(cuda: None, kernels: Any, case: LinearCase):
    """Splits and shares of x A^T meet in the order of their numbers, whoever comes last."""
    problem = problem_of(case, torch.bfloat16)
    first = forward(problem)
    for seed in (0, 1, 2):
        kernels.set_schedule(seed)
        assert torch.equal(forward(problem), first), f"schedule {seed}"


def test_memory_around_an_unaligned_problem_is_left_alone(cuda: None):
    """Rows of x that start anywhere are walked value by value, with the same result."""
    problem = problem_of(LinearCase(3, 70, 192, rank=4), torch.float16)
    shifted = torch.empty(problem.x.numel() + 1, dtype=torch.float16)[1:].view_as(problem.x)
    shifted.copy_(problem.x)
    with guarded() as memory:
        w = memory.empty(tuple(problem.q.codes.shape), torch.uint8, 1)
        w.copy_(problem.q.codes)
        moved = replace(problem, x=shifted, q=replace(problem.q, codes=w))
        rule = ErrorRule(torch.float16)
        with qk.use_backend("reference"):
            plain, truth = formula(problem), formula(in_float64(problem))
        rule.add("unaligned", "y", forward(moved), plain, truth)
        rule.check()


def test_a_bias_of_any_dtype_and_strided_operands(cuda: None):
    problem = problem_of(LinearCase(3, 40, 128, rank=4, bias=True), torch.float32)
    adapter, rule = problem.adapter, ErrorRule(torch.float32)
    assert adapter is not None and problem.bias is not None
    turned = replace(adapter, a=adapter.a.T.contiguous().T, b=adapter.b.T.contiguous().T)
    moved = replace(problem, x=problem.x.T.contiguous().T, adapter=turned)
    with qk.use_backend("reference"):
        plain, truth = formula(problem), formula(in_float64(problem))
    for dtype in (torch.float32, torch.float64):
        ours = forward(replace(moved, bias=problem.bias.to(dtype)))
        rule.add(str(dtype), "y", ours, plain, truth)
    rule.check()


def test_what_it_refuses(cuda: None):
    with qk.use_backend("cpu"):
        q = qk.quantize(torch.ones(4, 64))
    refusals = {
        "x has 17 rows, more than 16": (torch.ones(17, 64), q),
        "the base weight is dense": (torch.ones(2, 64), torch.ones(4, 64)),
        "x is torch.float64": (torch.ones(2, 64, dtype=torch.float64), q),
    }
    for reason, (x, base) in refusals.items():
        with pytest.raises(qk.InputError, match=f"cuda: {reason}$"):
            qk.qlora_linear(x, base)


def test_gradients_are_other_backends(cuda: None):
    problem = problem_of(FEW[0], torch.float32)
    y = qk.qlora_linear(problem.x.requires_grad_(), problem.q, problem.adapter)
    with pytest.raises(qk.InputError, match=r"cuda: has no kernel for this op$"):
        y.sum().backward()
