"""DoRA's norms by the error rule: the shared cases, ranks of several tiles, and cancellation."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from ops import test_dora_column_norm as every_backend
from ops.test_dora_column_norm import ADAPTED, dense
from qlora_kernels.gpu.launch import COLUMNS
from qlora_kernels.gpu.shares import splits
from qlora_kernels.testing.cases import LinearCase, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

# The interpreter takes seconds for what a GPU does at once. A rank of several tiles and a rest.
SMALL = [case for case in ADAPTED if case.n * case.k <= 30_000]
CASES = (*SMALL, LinearCase(1, 37, 200, rank=35))


def judge(rule: ErrorRule, case: LinearCase, device: torch.device, dtype: torch.dtype) -> None:
    with qk.use_backend("reference"):
        problem = linear_problem(case, torch.float32)
        a, b = problem.adapter.a.to(dtype), problem.adapter.b.to(dtype)
        adapter = replace(problem.adapter, a=a, b=b)
        plain, truth = (dense(problem.q, adapter, d) for d in (torch.float32, torch.float64))
    there = replace(adapter, a=a.to(device), b=b.to(device))
    ours = qk.dora_column_norm(problem.q.to(device), there)
    rule.add(str(case), "norm", ours.cpu(), plain, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_error_rule(device: torch.device, dtype: torch.dtype):
    rule = ErrorRule(torch.float32)
    for case in CASES:
        judge(rule, case, device, dtype)
    rule.check()


def test_the_update_may_nearly_undo_the_weight(device: torch.device):
    """As tests/ops has it, but many draws: here both err alike, and one draw's bias is chance."""
    rule = ErrorRule(torch.float32)
    for seed in range(30):
        random = torch.Generator().manual_seed(seed)
        w = torch.randn(12, 4, generator=random) @ torch.randn(4, 64, generator=random)
        with qk.use_backend("reference"):
            q = qk.quantize(w, "int8")
            u, s, v = torch.linalg.svd(qk.dequantize(q).double(), full_matrices=False)
            adapter = qk.Adapter(v.float(), (-(1 - 1e-4) / 0.5 * u * s).float(), 0.5)
            plain, truth = (dense(q, adapter, d) for d in (torch.float32, torch.float64))
        there = replace(adapter, a=adapter.a.to(device), b=adapter.b.to(device))
        ours = qk.dora_column_norm(q.to(device), there)
        rule.add(f"seed {seed}", "norm", ours.cpu(), plain, truth)
    rule.check()


def test_zeros(device: torch.device):
    with device:
        every_backend.test_an_update_that_undoes_the_weight_leaves_a_norm_of_zero_not_nan("triton")
        every_backend.test_rows_of_zeros_have_a_norm_of_zero("triton")


def test_programs_share_a_long_row_and_give_the_same_bits_every_time(device: torch.device):
    assert splits(1, 1100, COLUMNS) > 1
    with qk.use_backend("reference"):
        problem = linear_problem(LinearCase(1, 5, 1100, rank=4), torch.float32)
    a, b = problem.adapter.a.to(device), problem.adapter.b.to(device)
    q, adapter = problem.q.to(device), replace(problem.adapter, a=a, b=b)
    assert torch.equal(qk.dora_column_norm(q, adapter), qk.dora_column_norm(q, adapter))
