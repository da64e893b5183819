"""`qlora_linear` and every gradient by the error rule, with every plan of the launch rule."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import qlora_kernels as qk
from ops.linear_formula import formula, in_float64, op, outputs
from qlora_kernels.gpu import tuned
from qlora_kernels.ops import Linear, qlora_linear_group
from qlora_kernels.ops.qlora_linear import triton_group, triton_kernel, triton_plan
from qlora_kernels.ops.qlora_linear import triton_plan as plans
from qlora_kernels.ops.qlora_linear.triton_plan import DENSE, every_plan
from qlora_kernels.testing.cases import LINEAR_CASES, LinearCase, LinearProblem, linear_problem
from qlora_kernels.testing.error_rule import ErrorRule

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The interpreter takes seconds for what a GPU does at once.
SMALL = (
    *(case for case in LINEAR_CASES if case.m * case.n * case.k <= 300_000),
    LinearCase(9, 40, 70, rank=16, dropout=0.25),
    LinearCase(9, 40, 128, rank=16, dropout=0.25, dropout_on="input", bias=True),
)
FORWARD, BACKWARD = every_plan()


def problem_of(case: LinearCase, dtype: torch.dtype, device: torch.device) -> LinearProblem:
    with qk.use_backend("reference"):
        problem = linear_problem(case, dtype)
    adapter = problem.adapter
    if adapter is not None:
        adapter = replace(adapter, a=adapter.a.to(device), b=adapter.b.to(device))
    bias = None if problem.bias is None else problem.bias.to(device)
    x, q, dy = problem.x.to(device), problem.q.to(device), problem.dy.to(device)
    return replace(problem, x=x, q=q, adapter=adapter, bias=bias, dy=dy)


def judge(rule: ErrorRule, case: LinearCase, problem: LinearProblem) -> None:
    ours = outputs(op, problem)
    with qk.use_backend("reference"):
        plain, truth = outputs(formula, problem), outputs(formula, in_float64(problem))
    for name, tensor in truth.items():
        assert ours[name].dtype == plain[name].dtype, name
        rule.add(str(case), name, ours[name], plain[name], tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_gradients(device: torch.device, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in SMALL:
        judge(rule, case, problem_of(case, dtype, device))
    rule.check()


FOLDED = replace(DENSE, folds=True)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("plan", (*FORWARD, DENSE, FOLDED), ids=str)
def test_every_forward_plan(
    device: torch.device, plan: object, splits: int, monkeypatch: pytest.MonkeyPatch
):
    """Three shares of five steps: the last is short; a tail of rows and of columns."""
    plan = replace(plan, splits=splits)
    monkeypatch.setattr(triton_kernel, "forward_plan", lambda *_: plan)
    rule = ErrorRule(torch.float16)
    for case in (LinearCase(5, 40, 320, rank=20, bias=True), LinearCase(18, 130, 64, rank=0)):
        judge(rule, case, problem_of(case, torch.float16, device))
    rule.check()


@pytest.mark.parametrize("plan", (*BACKWARD, DENSE, FOLDED), ids=str)
def test_every_backward_plan(device: torch.device, plan: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_kernel, "backward_plan", lambda *_, fused: plan)
    rule = ErrorRule(torch.float16)
    for case in (LinearCase(18, 130, 128, rank=20), LinearCase(3, 40, 64, rank=0)):
        judge(rule, case, problem_of(case, torch.float16, device))
    rule.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_output_scale(device: torch.device, dtype: torch.dtype):
    """DoRA: the scale falls on the product, the bias is added after it."""
    rule = ErrorRule(dtype)
    for case in (LinearCase(3, 48, 128, bias=True), LinearCase(9, 33, 40, bias=True)):
        problem = problem_of(case, dtype, device)
        scale = torch.linspace(0.5, 2.0, case.n, device=device)
        rows = (problem.x, problem.q, problem.adapter, problem.bias, None)
        ours = triton_kernel.forward(*rows, scale)
        unscaled = replace(problem, bias=None)
        with qk.use_backend("reference"):
            plain = (formula(unscaled) * scale).to(dtype) + problem.bias
            truth = formula(in_float64(unscaled)) * scale.double() + problem.bias.double()
        rule.add(str(case), "y", ours, plain, truth)
    rule.check()


@pytest.mark.parametrize("splits", [1, 2])
def test_a_group_is_one_launch_with_the_bits_of_calls(
    device: torch.device, splits: int, monkeypatch: pytest.MonkeyPatch
):
    """Tiles of three layers of other widths and ranks; the last has tails."""
    launched = []
    forward = triton_group.forward
    monkeypatch.setattr(triton_plan, "splits", lambda *sizes: splits)
    monkeypatch.setattr(triton_group, "forward", lambda *a: launched.append(1) or forward(*a))
    cases = (LinearCase(3, n, 128, rank=r, bias=True) for n, r in ((130, 8), (40, 16), (200, 3)))
    problems = [problem_of(case, torch.float16, device) for case in cases]
    x = problems[0].x
    with torch.no_grad():
        together = qlora_linear_group(x, [Linear(p.q, p.adapter, p.bias) for p in problems])
        for y, p in zip(together, problems, strict=True):
            assert torch.equal(y, qk.qlora_linear(x, p.q, p.adapter, p.bias))
        assert len(launched) == 1
        other = Linear(problems[0].q, problems[0].adapter)
        qlora_linear_group(x, [Linear(problems[1].q, problems[1].adapter, problems[1].bias), other])
    assert len(launched) == 1, "layers that differ in what is compiled are launched by themselves"


def test_the_same_bits_every_time(device: torch.device):
    problem = problem_of(LinearCase(5, 40, 320, rank=8, dropout=0.3), torch.float16, device)
    first = outputs(op, problem)
    for name, tensor in outputs(op, problem).items():
        assert torch.equal(tensor, first[name]), name


def test_a_dense_base_is_refused(device: torch.device):
    x = torch.zeros(2, 64, device=device)
    with pytest.raises(qk.InputError, match=r"triton: the base weight is dense$"):
        qk.qlora_linear(x, torch.zeros(4, 64, device=device))


def test_a_measured_plan_is_taken(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every plan is tried once, by a clock that likes the last one best; then nothing is."""
    monkeypatch.setenv("QLORA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(tuned.TUNE, "1")
    tuned.plans.cache_clear()
    tried: list[str] = []

    def milliseconds(call: Callable[[], object]) -> float:
        call()
        tried.append("")
        return -len(tried)

    monkeypatch.setattr(tuned, "milliseconds", milliseconds)
    problem = problem_of(LinearCase(18, 130, 128, rank=20), torch.float16, device)
    first = outputs(op, problem)
    assert len(tried) == len(plans.FORWARD) + len(plans.BACKWARD)
    assert set(tuned.plans().values()) == {"dense"}
    words = [problem.split()[:2] for problem in tuned.plans()]
    assert words == [["forward", "nf4"], ["backward", "nf4"]]  # other formats are measured anew
    again = outputs(op, problem)
    assert len(tried) == len(plans.FORWARD) + len(plans.BACKWARD)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    tuned.plans.cache_clear()
