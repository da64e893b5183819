"""DoRA's norms against the dense sum in float64, by the error rule, in any order of threads."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from ops.test_dora_column_norm import ADAPTED, dense, judge
from qlora_kernels.gpu import cuda_module
from qlora_kernels.testing.cases import FLOAT_DTYPES, LinearCase, LinearProblem, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

# Ranks of one stage and of several, whole and with a rest; several groups of rows; splits of
# columns; formats, and blocks of every size that begin inside a thread's eight columns.
CASES = (
    *ADAPTED,
    LinearCase(1, 130, 1160, rank=33, block_size=32),
    LinearCase(1, 20, 72, rank=256, format="nf4-tuned"),
    LinearCase(1, 9, 1100, rank=1, format="int8", block_size=32),
    LinearCase(1, 3, 4096, rank=2, format="fp4", double_quant=False),
)
SPLIT = LinearCase(1, 140, 1664, rank=5)


def problem_of(case: LinearCase, dtype: torch.dtype = torch.float32) -> LinearProblem:
    """Codes by the CPU's quantization, so that only the op under test is emulated."""
    with qk.use_backend("cpu"):
        problem = linear_problem(case, torch.float32)
    adapter = problem.adapter
    assert adapter is not None
    return replace(problem, adapter=replace(adapter, a=adapter.a.to(dtype), b=adapter.b.to(dtype)))


def checked(rule: ErrorRule, case: object, problem: LinearProblem) -> None:
    ours = qk.dora_column_norm(problem.q, problem.adapter)
    with qk.use_backend("cpu"):
        plain, truth = (dense(problem.q, problem.adapter, d) for d in (torch.float32, torch.double))
    rule.add(str(case), "norm", ours, plain, truth)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_error_rule(cuda: None, dtype: torch.dtype):
    rule = ErrorRule(torch.float32)
    for case in CASES:
        checked(rule, case, problem_of(case, dtype))
    rule.check()


def test_factors_of_two_dtypes_and_any_strides(cuda: None):
    problem = problem_of(ADAPTED[1])
    a, b = problem.adapter.a, problem.adapter.b
    mixed = replace(
        problem.adapter,
        a=a.to(torch.float16).T.contiguous().T,
        b=b.to(torch.bfloat16).repeat_interleave(2, dim=1)[:, ::2],
    )
    rule = ErrorRule(torch.float32)
    checked(rule, ADAPTED[1], replace(problem, adapter=mixed))
    rule.check()


def test_no_schedule_changes_a_bit(cuda: None, kernels: Any):
    """Splits meet in the order of their numbers, whoever comes last."""
    problem = problem_of(SPLIT)
    first = qk.dora_column_norm(problem.q, problem.adapter)
    for seed in (0, 1, 2):
        kernels.set_schedule(seed)
        again = qk.dora_column_norm(problem.q, problem.adapter)
        assert torch.equal(again, first), f"schedule {seed}"


@pytest.mark.parametrize("format", ["nf4", "int8"])
def test_unaligned_codes_and_memory_around_the_outputs(cuda: None, format: str):
    """The module itself, over guarded memory: with splits and without, with the same norms."""
    problem = problem_of(replace(SPLIT, format=format))
    adapter, n, module = problem.adapter, SPLIT.n, cuda_module.kernels()
    factors = (cuda_module.matrix(adapter.a), cuda_module.matrix(adapter.b), adapter.scaling)
    rule = ErrorRule(torch.float32)
    plain, truth = (dense(problem.q, adapter, d) for d in (torch.float32, torch.double))
    for offset, shares in ((0, 1), (1, 1), (0, 3), (1, 3)):
        with guarded() as memory:
            codes = memory.empty(problem.q.codes.shape, torch.uint8, offset)
            codes.copy_(problem.q.codes)
            norm, partial = memory.empty((n,)), memory.empty((shares, n))
            arrivals = memory.empty((2,), torch.int32)
            arrivals.zero_()
            places = [t.data_ptr() for t in (norm, partial, arrivals)]
            weight = cuda_module.weight(replace(problem.q, codes=codes))
            module.dora_column_norm(weight, factors, shares, places, 0)
            assert not arrivals.any(), "the next launch counts from zero"
        rule.add(f"offset {offset}, {shares} shares", "norm", norm, plain, truth)
    rule.check()


def test_where_the_update_nearly_undoes_the_weight(cuda: None):
    """`s B A = -(1 - 1e-4) W`: what is left is 1e-4 of each term of the rank-sized identity."""
    rule = ErrorRule(torch.float32)
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        w = torch.randn(12, 4, generator=random) @ torch.randn(4, 64, generator=random)
        with qk.use_backend("cpu"):
            q = qk.quantize(w, "int8")
            values = qk.dequantize(q)
        u, s, v = torch.linalg.svd(values.double(), full_matrices=False)
        a, b = v.float(), (-(1 - 1e-4) / 0.5 * u * s).float()
        judge(rule, f"cancelled {seed}", q, qk.Adapter(a, b, 0.5))
    rule.check()


def test_empty_weights(cuda: None):
    for n, k in ((0, 64), (5, 0)):
        with qk.use_backend("cpu"):
            q = qk.quantize(torch.zeros(n, k), double_quant=False)
        norm = qk.dora_column_norm(q, qk.Adapter(torch.zeros(2, k), torch.zeros(n, 2), 1.0))
        assert torch.equal(norm, torch.zeros(n))


def test_what_it_refuses(cuda: None):
    with qk.use_backend("cpu"):
        q = qk.quantize(torch.ones(4, 64))
    a, b = torch.ones(2, 64), torch.ones(4, 2)
    refusals = {
        "the base weight is dense": (torch.ones(4, 64), qk.Adapter(a, b, 1.0)),
        "a is torch.float64": (q, qk.Adapter(a.double(), b, 1.0)),
        "b is torch.float64": (q, qk.Adapter(a, b.double(), 1.0)),
    }
    for reason, (base, adapter) in refusals.items():
        with pytest.raises(qk.InputError, match=f"cuda: {reason}$"):
            qk.dora_column_norm(base, adapter)
