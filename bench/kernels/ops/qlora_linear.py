"""The linear layer: base and adapter, forward alone or with every gradient."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

import qlora_kernels as qk
from bench.kernels.case import DIRECTIONS, DTYPE_NAMES, Call, Case, Cost, Expected
from bench.kernels.weight import Weight, random_weight
from qlora_kernels.ops.qlora_linear import reference
from qlora_kernels.ops.qlora_linear.call import Needs
from qlora_kernels.testing.cases import LINEAR_CASES, linear_problem

TRAFFIC = "read"
SAMPLED_ROWS = 16


@dataclass(frozen=True, eq=False)
class Problem:
    """x [m, k] and dy [m, n] in the case's dtype; A and B are float32 masters, as layers keep."""

    case: Case
    x: torch.Tensor
    weight: Weight
    adapter: qk.Adapter | None
    dy: torch.Tensor

    @property
    def q(self) -> qk.QuantizedTensor:
        return self.weight.q


def problem(case: Case, device: str, copy: int) -> Problem:
    weight = random_weight(case.n, case.k, case.dtype, case.format, (device, copy))
    random = torch.Generator(device).manual_seed(copy + 1)  # other values than the weight's

    def normal(*shape: int, std: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device) * std

    adapter = None
    if case.rank:
        a, b = normal(case.rank, case.k, std=case.k**-0.5), normal(case.n, case.rank, std=0.5)
        trained = (t.requires_grad_(case.trains) for t in (a, b))
        adapter = qk.Adapter(*trained, scaling=2.0)
    return Problem(
        case,
        normal(case.m, case.k).to(case.torch_dtype).requires_grad_(case.trains),
        weight,
        adapter,
        normal(case.m, case.n).to(case.torch_dtype),
    )


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    """The case list that tests share, with gradients; dropout and bias are theirs to test."""
    for c in LINEAR_CASES:
        if c.m and not c.dropout:
            made = linear_problem(c, dtype)
            case = Case(
                "qlora_linear",
                str(c),
                c.n,
                c.k,
                c.m,
                DTYPE_NAMES[dtype],
                DIRECTIONS[1],
                c.rank,
                c.format,
            )
            adapter = made.adapter
            if adapter is not None:
                a, b = (t.to(device).requires_grad_() for t in (adapter.a, adapter.b))
                adapter = replace(adapter, a=a, b=b)
            x = made.x.to(device).requires_grad_()
            yield Problem(case, x, Weight(made.q.to(device)), adapter, made.dy.to(device))


def ours(p: Problem) -> Call:
    def forward() -> torch.Tensor:
        return qk.qlora_linear(p.x, p.q, p.adapter)

    leaves = {"dx": p.x} | ({"da": p.adapter.a, "db": p.adapter.b} if p.adapter else {})
    return differentiated(forward, leaves, p)


def differentiated(
    forward: Callable[[], torch.Tensor], leaves: dict[str, torch.Tensor], p: Problem
) -> Call:
    """`forward` alone, or with the gradients of `leaves`, as the case says: ours and the peers'."""

    def alone() -> dict[str, torch.Tensor]:
        return {"y": forward()}

    def with_gradients() -> dict[str, torch.Tensor]:
        y = forward()
        gradients = torch.autograd.grad(y, list(leaves.values()), p.dy)
        return {"y": y, **dict(zip(leaves, gradients, strict=True))}

    return with_gradients if p.case.trains else alone


def expected(p: Problem) -> dict[str, Expected]:
    """y and dx in sampled rows, base_y and base_dx for peers without adapter; all of da and db."""
    rows = sampled_rows(p)
    plain, truth = (_row_outputs(p, rows, dtype) for dtype in (p.x.dtype, torch.float64))
    found = {name: Expected(truth[name], plain[name], rows) for name in truth}
    if p.case.trains and p.adapter:
        plain_gradients, truths = (
            _adapter_gradients(p, dtype) for dtype in (p.x.dtype, torch.float64)
        )
        for name, gradient in plain_gradients.items():
            found[name] = Expected(truths[name], gradient)
    return found


def sampled_rows(p: Problem) -> torch.Tensor:
    """Indices of the rows that are checked, spread over all."""
    count = min(SAMPLED_ROWS, p.case.m)
    return torch.linspace(0, p.case.m - 1, count, device=p.x.device).long()


def _row_outputs(p: Problem, rows: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """By the reference's formulas, over the weight's values in `dtype`."""
    x, dy = (t.detach()[rows].to(dtype) for t in (p.x, p.dy))
    w = p.weight.exact.to(dtype)
    by_columns = p.weight.rounded if dtype == p.q.dtype else w
    found = {}
    for prefix, adapter in (("", _adapter(p, dtype)), ("base_", None)):
        found[f"{prefix}y"] = reference.forward(x, w, adapter, None, None)
        if p.case.trains:
            needs = Needs(x=True, a=False, b=False, bias=False)
            found[f"{prefix}dx"] = reference.backward(dy, x, by_columns, adapter, None, needs).x
    return found


def _adapter(p: Problem, dtype: torch.dtype) -> qk.Adapter | None:
    """Its masters as they are, or in float64: never in fewer bits than they have."""
    if p.adapter is None:
        return None
    a, b = (t.detach().to(torch.promote_types(t.dtype, dtype)) for t in (p.adapter.a, p.adapter.b))
    return qk.Adapter(a, b, p.adapter.scaling)


def _adapter_gradients(p: Problem, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    needs = Needs(x=False, a=True, b=True, bias=False)
    x, dy = p.x.detach().to(dtype), p.dy.to(dtype)
    found = reference.backward(dy, x, p.q, _adapter(p, dtype), None, needs)
    return {"da": found.a, "db": found.b}


def cost(p: Problem) -> Cost:
    """Forward reads x and W and writes y; backward reads x, dy and W and writes dx; and A, B."""
    m, n, k, r = p.case.m, p.case.n, p.case.k, p.case.rank
    item = p.x.element_size()
    factors = 4 * r * (n + k)
    num_bytes = p.q.nbytes + item * m * (n + k) + factors
    num_flops = 2 * m * n * k + 2 * m * r * (n + k)
    if p.case.trains:
        num_bytes += p.q.nbytes + item * m * (n + 2 * k) + 2 * factors
        # dy W; then dh, dh A, dh^T x, dy^T h: twice the adapter's forward. h may be kept.
        num_flops += 2 * m * n * k + 4 * m * r * (n + k)
    return Cost(num_bytes, num_flops)
