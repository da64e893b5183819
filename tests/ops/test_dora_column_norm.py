"""`dora_column_norm` against the dense `W + s B A` in float64, and where the three terms cancel."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.testing.cases import LINEAR_CASES, LinearCase, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

ADAPTED = [case for case in LINEAR_CASES if case.rank]
CASE = LinearCase(1, 20, 36, rank=4)


def dense(q: qk.QuantizedTensor | torch.Tensor, adapter: qk.Adapter, dtype: torch.dtype):
    """What the op never makes."""
    w = qk.dequantize(q, torch.float32) if isinstance(q, qk.QuantizedTensor) else q
    a, b = adapter.a.to(dtype), adapter.b.to(dtype)
    return (w.to(dtype) + adapter.scaling * (b @ a)).norm(dim=1)


def judge(rule: ErrorRule, case: object, q: qk.QuantizedTensor, adapter: qk.Adapter) -> None:
    ours = qk.dora_column_norm(q, adapter)
    assert ours.dtype == torch.float32
    plain, truth = dense(q, adapter, torch.float32), dense(q, adapter, torch.float64)
    rule.add(str(case), "norm", ours, plain, truth)


def test_error_rule(backend: str):
    rule = ErrorRule(torch.float32)
    for case in ADAPTED:
        problem = linear_problem(case, torch.float32)
        judge(rule, case, problem.q, problem.adapter)
    rule.check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_factors_may_be_16_bit_and_strided(backend: str, dtype: torch.dtype):
    rule = ErrorRule(torch.float32)
    for case in ADAPTED:
        problem = linear_problem(case, torch.float32)
        a = problem.adapter.a.to(dtype).T.contiguous().T
        b = problem.adapter.b.to(dtype).repeat_interleave(2, dim=1)[:, ::2]
        judge(rule, case, problem.q, replace(problem.adapter, a=a, b=b))
    rule.check()


def test_the_update_may_nearly_undo_the_weight(backend: str):
    """`s B A = -(1 - 1e-4) W` for a W of the adapter's rank: what is left is 1e-4 of each term.

    Many weights, since all rows of one err in the same direction, plain torch's too.
    """
    rule = ErrorRule(torch.float32)
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        w = torch.randn(12, 4, generator=random) @ torch.randn(4, 64, generator=random)
        q = qk.quantize(w, "int8")
        u, s, v = torch.linalg.svd(qk.dequantize(q).double(), full_matrices=False)
        a, b = v.float(), (-(1 - 1e-4) / 0.5 * u * s).float()
        judge(rule, f"cancelled {seed}", q, qk.Adapter(a, b, 0.5))
    rule.check()


def test_an_update_that_undoes_the_weight_leaves_a_norm_of_zero_not_nan(backend: str):
    q = qk.quantize(torch.eye(32), double_quant=False)
    adapter = qk.Adapter(torch.eye(32), -torch.eye(32), 1.0)
    assert torch.equal(qk.dora_column_norm(q, adapter), torch.zeros(32))


def test_rows_of_zeros_have_a_norm_of_zero(backend: str):
    w = torch.randn(20, 36)
    w[3] = w[19] = 0
    q = qk.quantize(w, double_quant=False, block_size=32)
    b = torch.randn(20, 4)
    b[3] = 0
    norm = qk.dora_column_norm(q, qk.Adapter(torch.randn(4, 36), b, 0.5))
    assert norm[3] == 0 and norm[19] > 0


def test_a_dense_base_and_float64():
    problem = linear_problem(CASE, torch.float32)
    w = qk.dequantize(problem.q)
    a, b = problem.adapter.a.double(), problem.adapter.b.double()
    adapter = replace(problem.adapter, a=a, b=b)
    for base in (problem.q, w, w.double()):
        norm = qk.dora_column_norm(base, adapter)
        assert norm.dtype == torch.float64
        torch.testing.assert_close(norm, dense(base, adapter, torch.float64))


def test_nothing_flows_through_it(backend: str):
    problem = linear_problem(CASE, torch.float32)
    a, b = (t.requires_grad_() for t in (problem.adapter.a, problem.adapter.b))
    assert not qk.dora_column_norm(problem.q, replace(problem.adapter, a=a, b=b)).requires_grad


def test_it_does_not_depend_on_the_number_of_threads(backend: str):
    problem = linear_problem(LinearCase(1, 300, 520, rank=9), torch.float32)
    one = qk.dora_column_norm(problem.q, problem.adapter)
    torch.set_num_threads(3)
    assert torch.equal(qk.dora_column_norm(problem.q, problem.adapter), one)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"a": torch.zeros(4, 35)}, "a should be [r, k] with k = 36, was [4, 35]"),
        ({"b": torch.zeros(20, 5)}, "b should be [n, r] with n = 20, r = 4, was [20, 5]"),
        ({"a": torch.zeros(4, 36).int()}, "a should be float32 or bfloat16"),
        ({"b": torch.zeros(20, 4, device="meta")}, "b should be on cpu, was on meta"),
    ],
)
def test_refusals(changes: dict[str, torch.Tensor], text: str):
    problem = linear_problem(CASE, torch.float32)
    with pytest.raises(qk.InputError) as refusal:
        qk.dora_column_norm(problem.q, replace(problem.adapter, **changes))
    assert str(refusal.value).startswith(f"dora_column_norm: {text}")
