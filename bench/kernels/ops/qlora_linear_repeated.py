"""The linear layer as a step of generation calls it: what stays the same was looked at before."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.kernels.case import DIRECTIONS, Call
from bench.kernels.ops import qlora_linear as linear_op
from qlora_kernels.errors import InputError
from qlora_kernels.ops import Linear
from qlora_kernels.ops.qlora_linear.repeated import RepeatedGroup, refuses

OP = "qlora_linear_repeated"
TRAFFIC = linear_op.TRAFFIC
Problem, problem = linear_op.Problem, linear_op.problem
expected, cost = linear_op.expected, linear_op.cost


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    """Those of the layer, forward alone."""
    for p in linear_op.small_problems(dtype, device):
        adapter = p.adapter
        if adapter is not None:
            adapter = replace(adapter, a=adapter.a.detach(), b=adapter.b.detach())
        case = replace(p.case, op=OP, direction=DIRECTIONS[0])
        yield replace(p, case=case, x=p.x.detach(), adapter=adapter)


def ours(p: Problem) -> Call:
    linear = Linear(p.q, p.adapter)
    if reason := refuses(linear, p.x):
        raise InputError(f"{OP}: {reason}")
    y = p.x.new_empty(*p.x.shape[:-1], p.case.n)
    group = RepeatedGroup([linear], [y])

    def forward() -> torch.Tensor:
        group(p.x)
        return y

    return linear_op.differentiated(forward, {}, p)
