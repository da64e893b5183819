"""DoRA in `qlora_linear`: the scale by the error rule, its gradients, and the rows of zeros."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from ops.linear_formula import in_float64, judge, op, outputs
from qlora_kernels.testing.cases import (
    DORA_CASES,
    FLOAT_DTYPES,
    LinearCase,
    LinearProblem,
    linear_problem,
)
from qlora_kernels.testing.error_rule import ErrorRule

SMALL = LinearCase(6, 20, 36, rank=4, bias=True, dora=True)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_forward_and_gradients(backend: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in DORA_CASES:
        judge(rule, case, linear_problem(case, dtype))
    rule.check()


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
def test_gradcheck_with_the_norm_held_constant(dropout_on: str):
    case = replace(SMALL, m=3, n=5, k=7, rank=2, dropout=0.3, dropout_on=dropout_on)
    problem = in_float64(linear_problem(case, torch.float32))
    adapter = problem.adapter
    norm = qk.dora_column_norm(problem.q, adapter)

    def run(x, a, b, magnitude, bias):
        given = replace(adapter, a=a, b=b, magnitude=magnitude)
        return qk.qlora_linear(x, problem.q, given, bias, seed=5, column_norm=norm)

    inputs = (problem.x, adapter.a, adapter.b, adapter.magnitude, problem.bias)
    assert torch.autograd.gradcheck(run, [t.detach().requires_grad_() for t in inputs])


def with_magnitude(problem: LinearProblem, magnitude: torch.Tensor) -> LinearProblem:
    return replace(problem, adapter=replace(problem.adapter, magnitude=magnitude))


def test_a_magnitude_of_the_norm_changes_nothing(backend: str):
    problem = linear_problem(replace(SMALL, bias=False), torch.float32)
    norm = qk.dora_column_norm(problem.q, problem.adapter)
    plain = replace(problem, adapter=replace(problem.adapter, magnitude=None))
    ours, theirs = outputs(op, with_magnitude(problem, norm)), outputs(op, plain)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_a_magnitude_of_zero_still_learns(backend: str, dtype: torch.dtype):
    """y has lost what the magnitude's gradient needs, so it is computed again."""
    rule = ErrorRule(dtype)
    for case in DORA_CASES:
        problem = linear_problem(case, dtype)
        magnitude = problem.adapter.magnitude.clone()
        magnitude[::3] = 0
        judge(rule, case, with_magnitude(problem, magnitude))
    rule.check()


def test_a_row_of_zeros_has_a_scale_of_one(backend: str):
    problem = linear_problem(SMALL, torch.float32)
    w, b = torch.randn(20, 36), problem.adapter.b.clone()
    w[7], b[7] = 0, 0
    q = qk.quantize(w, double_quant=False, block_size=32)
    problem = replace(problem, q=q, adapter=replace(problem.adapter, b=b))
    found = outputs(op, problem)
    assert torch.equal(found["y"][:, 7], problem.bias[7].expand(6))
    assert found["dmagnitude"][7] == 0 and found["db"][7].any()
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_the_norm_may_be_given(backend: str):
    problem = linear_problem(SMALL, torch.float32)
    norm = qk.dora_column_norm(problem.q, problem.adapter)
    given = qk.qlora_linear(problem.x, problem.q, problem.adapter, problem.bias, column_norm=norm)
    assert torch.equal(given, op(problem))
    doubled = replace(problem.adapter, magnitude=2 * problem.adapter.magnitude)
    again = qk.qlora_linear(problem.x, problem.q, doubled, problem.bias, column_norm=2 * norm)
    assert torch.equal(again, given)


@pytest.mark.parametrize("wanted", ["x", "a", "b", "magnitude", "bias"])
def test_one_gradient_alone_is_the_same(backend: str, wanted: str):
    problem = linear_problem(SMALL, torch.float32)
    everything = outputs(op, problem)
    adapter = problem.adapter
    tensors = {"x": problem.x, "bias": problem.bias}
    tensors |= {name: getattr(adapter, name) for name in ("a", "b", "magnitude")}
    leaf = tensors[wanted].requires_grad_()
    op(problem).backward(problem.dy)
    assert torch.equal(leaf.grad, everything[f"d{wanted}"])


def test_a_large_bias_does_not_drown_the_magnitude(backend: str):
    """bfloat16 has no digits left for u beside a bias of thousands; the gradient needs them."""
    problem = linear_problem(SMALL, torch.bfloat16)
    drowned = replace(problem, bias=torch.full_like(problem.bias, 4096.0))
    without = replace(problem, bias=None)
    assert torch.equal(outputs(op, drowned)["dmagnitude"], outputs(op, without)["dmagnitude"])


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
def test_it_compiles_in_one_graph(backend: str, dropout_on: str):
    problem = linear_problem(replace(SMALL, dropout=0.3, dropout_on=dropout_on), torch.float32)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    eager = outputs(op, problem)
    for name, tensor in outputs(compiled, problem).items():
        assert torch.equal(tensor, eager[name]), name
    torch._dynamo.reset()


def test_a_norm_without_a_magnitude_is_refused():
    problem = linear_problem(replace(SMALL, dora=False), torch.float32)
    with pytest.raises(qk.InputError, match="column_norm should come with a magnitude"):
        qk.qlora_linear(problem.x, problem.q, problem.adapter, column_norm=torch.ones(20))
    with pytest.raises(qk.InputError, match=r"magnitude should be \[n\] with n = 20, was \[19\]"):
        op(with_magnitude(problem, torch.ones(19)))
