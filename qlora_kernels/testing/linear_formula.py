"""`qlora_linear` once more in plain torch, for autograd to differentiate: truth and yardstick."""

from collections.abc import Callable
from dataclasses import replace

import torch

from qlora_kernels.ops import dequantize, dropout_mask, qlora_linear
from qlora_kernels.testing.cases import LinearProblem
from qlora_kernels.testing.error_rule import ErrorRule

Linear = Callable[[LinearProblem], torch.Tensor]


def formula(problem: LinearProblem) -> torch.Tensor:
    """y = x W^T + s h B^T + bias in x's dtype, with the mask that the op says it uses; or DoRA."""
    x, adapter, dtype = problem.x, problem.adapter, problem.x.dtype
    w = dequantize(problem.q, torch.float32).to(dtype)
    if adapter is None:
        return torch.nn.functional.linear(x, w, problem.bias)
    a, b = adapter.a.to(dtype), adapter.b.to(dtype)
    dropped = x
    if adapter.dropout == 0.0:
        h = x @ a.T
    elif adapter.dropout_on == "rank":
        mask = dropout_mask(problem.seed, (x.shape[0], adapter.rank), adapter.dropout)
        h = (x @ a.T) * mask.to(dtype)
    else:
        dropped = x * dropout_mask(problem.seed, x.shape, adapter.dropout).to(dtype)
        h = dropped @ a.T
    update = adapter.scaling * (h @ b.T)
    if adapter.magnitude is None:
        return torch.nn.functional.linear(x, w, problem.bias) + update
    return dora(x @ w.T, dropped @ w.T, update, problem)


def dora(
    base: torch.Tensor, dropped_base: torch.Tensor, update: torch.Tensor, problem: LinearProblem
) -> torch.Tensor:
    """peft's words: base + (g - 1) dropped base + g update, the norm of dense W + s B A."""
    adapter = problem.adapter
    assert adapter is not None and adapter.magnitude is not None
    wide = torch.promote_types(problem.x.dtype, torch.float32)
    w = dequantize(problem.q, torch.float32).to(wide)
    dense = w + adapter.scaling * (adapter.b.to(wide) @ adapter.a.to(wide)).detach()
    g = (adapter.magnitude / dense.norm(dim=1)).to(problem.x.dtype)
    y: torch.Tensor = base + (g - 1) * dropped_base + g * update
    return y if problem.bias is None else y + problem.bias


def op(problem: LinearProblem) -> torch.Tensor:
    """The same by the op."""
    return qlora_linear(problem.x, problem.q, problem.adapter, problem.bias, seed=problem.seed)


def in_float64(problem: LinearProblem) -> LinearProblem:
    """The same problem with all that is not quantized in float64."""
    adapter = problem.adapter
    if adapter is not None:
        magnitude = None if adapter.magnitude is None else adapter.magnitude.double()
        a, b = adapter.a.double(), adapter.b.double()
        adapter = replace(adapter, a=a, b=b, magnitude=magnitude)
    bias = None if problem.bias is None else problem.bias.double()
    return replace(
        problem, x=problem.x.double(), adapter=adapter, bias=bias, dy=problem.dy.double()
    )


def with_leaves(problem: LinearProblem) -> tuple[LinearProblem, dict[str, torch.Tensor]]:
    """The problem over leaves that want gradients, strides kept, and those by gradient name."""
    adapter = problem.adapter
    tensors = {"dx": problem.x, "dbias": problem.bias}
    if adapter is not None:
        tensors |= {"da": adapter.a, "db": adapter.b, "dmagnitude": adapter.magnitude}
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items() if t is not None}
    if adapter is not None:
        magnitude = leaves.get("dmagnitude")
        adapter = replace(adapter, a=leaves["da"], b=leaves["db"], magnitude=magnitude)
    return replace(problem, x=leaves["dx"], adapter=adapter, bias=leaves.get("dbias")), leaves


def outputs(linear: Linear, problem: LinearProblem) -> dict[str, torch.Tensor]:
    """y, dx, da, db, dmagnitude and dbias, as far as the problem has them."""
    problem, leaves = with_leaves(problem)
    y = linear(problem)
    y.backward(problem.dy)
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert gradients.keys() == leaves.keys()
    return {"y": y.detach(), **gradients}


def judge(rule: ErrorRule, case: object, problem: LinearProblem) -> None:
    """Add every output of the op on this problem to the rule."""
    ours, plain = outputs(op, problem), outputs(formula, problem)
    for name, truth in outputs(formula, in_float64(problem)).items():
        assert ours[name].dtype == plain[name].dtype, name
        rule.add(str(case), name, ours[name], plain[name], truth)


def on_device(problem: LinearProblem, device: str) -> LinearProblem:
    """The same problem where a backend can see it."""

    def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    adapter = problem.adapter
    if adapter is not None:
        a, b = adapter.a.to(device), adapter.b.to(device)
        adapter = replace(adapter, a=a, b=b, magnitude=moved(adapter.magnitude))
    x, q, dy = problem.x.to(device), problem.q.to(device), problem.dy.to(device)
    return replace(problem, x=x, q=q, adapter=adapter, bias=moved(problem.bias), dy=dy)
