"""The linear layer with a magnitude, its norm given: what DoRA costs from step to step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

import qlora_kernels as qk
from bench.kernels.case import Call, Case, Cost, Expected
from bench.kernels.ops import qlora_linear as linear_op

TRAFFIC = "read"


@dataclass(frozen=True, eq=False)
class Problem:
    """A linear problem whose adapter has a magnitude, and the norms that a layer keeps."""

    linear: linear_op.Problem
    norm: torch.Tensor  # [n]

    @property
    def case(self) -> Case:
        return self.linear.case


def problem(case: Case, device: str, copy: int) -> Problem:
    return _with_magnitude(linear_op.problem(case, device, copy))


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    for p in linear_op.small_problems(dtype, device):
        if p.adapter is not None:
            yield _with_magnitude(replace(p, case=replace(p.case, op="dora_linear")))


def _with_magnitude(p: linear_op.Problem) -> Problem:
    assert p.adapter is not None, "DoRA should have an adapter: --rank"
    random = torch.Generator(p.x.device).manual_seed(p.case.n)
    norm = qk.dora_column_norm(p.q, p.adapter)
    factor = 0.5 + torch.rand(norm.shape, generator=random, device=norm.device)
    magnitude = (norm * factor).requires_grad_(p.case.trains)
    return Problem(replace(p, adapter=replace(p.adapter, magnitude=magnitude)), norm)


def ours(p: Problem) -> Call:
    adapter = p.linear.adapter
    assert adapter is not None
    leaves = {"dx": p.linear.x, "da": adapter.a, "db": adapter.b, "dmagnitude": adapter.magnitude}

    def forward() -> torch.Tensor:
        return qk.qlora_linear(p.linear.x, p.linear.q, adapter, column_norm=p.norm)

    return linear_op.differentiated(forward, leaves, p.linear)


def expected(p: Problem) -> dict[str, Expected]:
    """By the reference, in the case's dtype and in float64."""
    plain, truth = (_reference(p, dtype) for dtype in (p.linear.x.dtype, torch.float64))
    return {name: Expected(truth[name], plain[name]) for name in truth}


def _reference(p: Problem, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    adapter = p.linear.adapter
    assert adapter is not None
    wide = dtype == torch.float64

    def leaf(t: torch.Tensor) -> torch.Tensor:
        return (t.detach().to(dtype) if wide else t.detach()).requires_grad_()

    parts = {name: leaf(getattr(adapter, name)) for name in ("a", "b", "magnitude")}
    linear = replace(
        p.linear, x=leaf(p.linear.x), dy=p.linear.dy.to(dtype), adapter=replace(adapter, **parts)
    )
    norm = p.norm.to(torch.float64) if wide else p.norm
    with qk.use_backend("reference"), torch.enable_grad():
        return dict(ours(Problem(linear, norm))())


def cost(p: Problem) -> Cost:
    """The linear layer's, and the magnitude and norms; backward reads y for the magnitude."""
    base, rows = linear_op.cost(p.linear), 8 * p.case.n
    if p.case.trains:
        rows += p.linear.x.element_size() * p.case.m * p.case.n
    return Cost(base.num_bytes + rows, base.num_flops)
