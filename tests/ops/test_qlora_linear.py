"""`qlora_linear` and every gradient, by the error rule, over the one list of cases."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from ops.linear_formula import formula, in_float64, judge, op, outputs
from qlora_kernels.testing.cases import (
    FLOAT_DTYPES,
    LINEAR_CASES,
    LinearCase,
    LinearProblem,
    linear_problem,
)
from qlora_kernels.testing.error_rule import ErrorRule

SMALL = LinearCase(6, 20, 36, rank=4, bias=True)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_forward_and_gradients(backend: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in LINEAR_CASES:
        judge(rule, case, linear_problem(case, dtype))
    rule.check()


@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float16], ids=str)
def test_adapters_may_be_16_bit(backend: str, adapter_dtype: torch.dtype):
    rule = ErrorRule(torch.float32)
    for case in LINEAR_CASES:
        problem = linear_problem(case, torch.float32)
        if problem.adapter is not None:
            a, b = problem.adapter.a.to(adapter_dtype), problem.adapter.b.to(adapter_dtype)
            judge(rule, case, replace(problem, adapter=replace(problem.adapter, a=a, b=b)))
    rule.check()


@pytest.mark.parametrize("case", LINEAR_CASES, ids=str)
def test_float64_is_the_formula(case: LinearCase):
    problem = in_float64(linear_problem(case, torch.float32))
    ours, truth = outputs(op, problem), outputs(formula, problem)
    for name, tensor in truth.items():
        torch.testing.assert_close(ours[name], tensor)


@pytest.mark.parametrize("dropout_on", ["rank", "input"])
@pytest.mark.parametrize("format", ["nf4", "int8"])
def test_gradcheck(format: str, dropout_on: str):
    case = LinearCase(3, 5, 7, rank=2, format=format, dropout=0.3, dropout_on=dropout_on)
    problem = in_float64(linear_problem(case, torch.float32))
    bias = torch.randn(5, dtype=torch.float64)

    def run(x, a, b, bias):
        adapter = replace(problem.adapter, a=a, b=b)
        return op(replace(problem, x=x, adapter=adapter, bias=bias))

    inputs = (problem.x, problem.adapter.a, problem.adapter.b, bias)
    assert torch.autograd.gradcheck(run, [t.detach().requires_grad_() for t in inputs])


def test_leading_dimensions_are_rows(backend: str):
    problem = linear_problem(SMALL, torch.float32)
    flat = outputs(op, problem)
    for shape in ((2, 3), (3, 1, 2), (1, 6)):
        x, dy = problem.x.view(*shape, -1), problem.dy.view(*shape, -1)
        shaped = outputs(op, replace(problem, x=x, dy=dy))
        assert shaped["y"].shape == dy.shape and shaped["dx"].shape == x.shape
        for name, tensor in flat.items():
            assert torch.equal(shaped[name].view(tensor.shape), tensor), name


def test_a_single_row_without_leading_dimensions(backend: str):
    problem = linear_problem(SMALL, torch.float32)
    one = replace(problem, x=problem.x[2], dy=problem.dy[2])
    row = replace(problem, x=problem.x[2:3], dy=problem.dy[2:3])
    assert outputs(op, one)["y"].shape == (SMALL.n,)
    for name, tensor in outputs(op, row).items():
        assert torch.equal(outputs(op, one)[name].view(tensor.shape), tensor), name


def strided(problem: LinearProblem) -> LinearProblem:
    """The same values behind awkward strides."""

    def transposed(t: torch.Tensor) -> torch.Tensor:
        return t.T.contiguous().T

    def spread(t: torch.Tensor) -> torch.Tensor:
        return t.repeat_interleave(2, dim=-1)[..., ::2]

    adapter = replace(problem.adapter, a=transposed(problem.adapter.a), b=spread(problem.adapter.b))
    return replace(
        problem,
        x=spread(problem.x),
        adapter=adapter,
        bias=spread(problem.bias),
        dy=transposed(problem.dy),
    )


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_strides_do_not_matter(backend: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in LINEAR_CASES:
        if case.rank and case.bias:
            judge(rule, case, strided(linear_problem(case, dtype)))
    rule.check()


def test_an_expanded_input_and_gradient(backend: str):
    problem = linear_problem(SMALL, torch.float32)
    x = problem.x[:1].expand(6, -1)
    y = qk.qlora_linear(x, problem.q, problem.adapter, problem.bias)
    assert torch.equal(y, op(replace(problem, x=x.contiguous())))
    ours = torch.autograd.functional.vjp(lambda t: op(replace(problem, x=t)).sum(), problem.x)[1]
    ones = torch.ones_like(problem.dy)  # the gradient of a sum is an expanded one
    theirs = torch.autograd.functional.vjp(lambda t: op(replace(problem, x=t)), problem.x, ones)[1]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_no_rows_give_no_output_and_zero_gradients(backend: str, shape: tuple[int, ...]):
    problem = linear_problem(replace(SMALL, dropout=0.5), torch.float32)
    empty = outputs(op, replace(problem, x=torch.zeros(*shape, 36), dy=torch.zeros(*shape, 20)))
    assert empty["y"].shape == (*shape, 20) and empty["dx"].shape == (*shape, 36)
    assert not any(empty[name].any() for name in ("da", "db", "dbias"))


@pytest.mark.parametrize("wanted", ["x", "a", "b", "bias"])
def test_one_gradient_alone_is_the_same(backend: str, wanted: str):
    problem = linear_problem(replace(SMALL, dropout=0.2), torch.float32)
    everything = outputs(op, problem)
    adapter = problem.adapter
    tensors = {"x": problem.x, "a": adapter.a, "b": adapter.b, "bias": problem.bias}
    leaf = tensors[wanted].requires_grad_()
    op(problem).backward(problem.dy)
    assert torch.equal(leaf.grad, everything[f"d{wanted}"])


def test_a_dense_base_is_16_bit_lora():
    """Format "none": the reference backend runs it, forward and every gradient."""
    problem = linear_problem(SMALL, torch.bfloat16)
    dense = replace(problem, q=qk.dequantize(problem.q, torch.bfloat16))
    ours = outputs(op, dense)
    with qk.use_backend("reference"):
        theirs = outputs(op, replace(problem, q=qk.quantize(torch.zeros(20, 36))))
    w = dense.q
    assert torch.equal(ours["da"], theirs["da"]) and torch.equal(ours["db"], theirs["db"])
    assert torch.equal(ours["dx"], theirs["dx"] + (problem.dy @ w))
