"""The loss of a frozen head [n, k] over m rows, alone or with the gradient of its input."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import qlora_kernels as qk
from bench.kernels.case import DIRECTIONS, DTYPE_NAMES, SMALL_SHAPES, Call, Case, Cost, Expected

TRAFFIC = "read"
OP = "linear_cross_entropy"


@dataclass(frozen=True, eq=False)
class Problem:
    case: Case
    hidden: torch.Tensor
    head: torch.Tensor
    labels: torch.Tensor


def problem(case: Case, device: str, copy: int) -> Problem:
    random = torch.Generator(device).manual_seed(copy)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device)

    hidden = normal(case.m, case.k).to(case.torch_dtype).requires_grad_(case.trains)
    head = (normal(case.n, case.k) * case.k**-0.5).to(case.torch_dtype)
    labels = torch.randint(case.n, (case.m,), generator=random, device=device)
    return Problem(case, hidden, head, labels)


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    """Several vocabularies; so many cases that the bias of a scalar is no accident."""
    for n, k in SMALL_SHAPES:
        for m in range(33, 97):
            case = Case(OP, f"{n}x{k}", n, k, m, DTYPE_NAMES[dtype], DIRECTIONS[1])
            yield problem(case, device, m)


def ours(p: Problem) -> Call:
    return differentiated(lambda: qk.linear_cross_entropy(p.hidden, p.head, p.labels), p)


def differentiated(loss: Callable[[], torch.Tensor], p: Problem) -> Call:
    """The loss alone or with the gradient of hidden, as the case says: ours and the peers'."""

    def alone() -> dict[str, torch.Tensor]:
        return {"loss": loss()}

    def with_gradient() -> dict[str, torch.Tensor]:
        value = loss()
        return {"loss": value, "dhidden": torch.autograd.grad(value, p.hidden)[0]}

    return with_gradient if p.case.trains else alone


def plain(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What a model computes without this op: logits whole, in hidden's dtype; the loss float32."""
    logits = torch.nn.functional.linear(hidden, head)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, labels)


def expected(p: Problem) -> dict[str, Expected]:
    """Float64 over all rows, since each row's gradient is divided by their number."""
    yardstick, truth = (_outputs(p, dtype) for dtype in (p.case.torch_dtype, torch.float64))
    return {name: Expected(truth[name].double(), yardstick[name]) for name in truth}


def _outputs(p: Problem, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    leaf = p.hidden.detach().to(dtype).requires_grad_()
    with torch.enable_grad():
        loss = plain(leaf, p.head.to(dtype), p.labels)
        return {"loss": loss.detach(), "dhidden": torch.autograd.grad(loss, leaf)[0]}


def cost(p: Problem) -> Cost:
    """Read hidden and head; with the gradient, multiply by the head once more, write dhidden."""
    num_flops = 2 * p.case.m * p.case.n * p.case.k
    num_bytes = p.hidden.nbytes + p.head.nbytes
    if p.case.trains:
        return Cost(num_bytes + p.hidden.nbytes, 2 * num_flops)
    return Cost(num_bytes, num_flops)
