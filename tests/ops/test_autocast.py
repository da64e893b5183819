"""Under autocast an op computes in the dtype that it is given: casting is the layer's business."""

import pytest
import torch

import qlora_kernels as qk
from ops.linear_formula import op, outputs
from qlora_kernels.testing.cases import FLOAT_DTYPES, LinearCase, linear_problem

CASE = LinearCase(6, 20, 36, rank=4, bias=True, dropout=0.2)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_qlora_linear(backend: str, dtype: torch.dtype):
    problem = linear_problem(CASE, dtype)
    plain = outputs(op, problem)
    with torch.autocast("cpu", torch.bfloat16):
        inside = outputs(op, problem)
    for name, tensor in plain.items():
        assert inside[name].dtype == tensor.dtype and torch.equal(inside[name], tensor), name


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_linear_cross_entropy(dtype: torch.dtype):
    hidden, head = torch.randn(6, 8).to(dtype), torch.randn(11, 8).to(dtype)
    labels = torch.tensor([3, -100, 0, 10, 5, 1])

    def run() -> list[torch.Tensor]:
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = qk.linear_cross_entropy(*leaves, labels, label_smoothing=0.1)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    with torch.autocast("cpu", torch.bfloat16):
        inside = run()
    for ours, plain in zip(inside, run(), strict=True):
        assert ours.dtype == plain.dtype and torch.equal(ours, plain)


def test_a_compiled_graph(backend: str):
    problem = linear_problem(CASE, torch.float32)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        y = compiled(problem)
    assert torch.equal(y, op(problem))
    torch._dynamo.reset()
