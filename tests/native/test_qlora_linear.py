"""The matmuls on every instruction set: the error rule, and not a byte beside the outputs."""

from dataclasses import replace

import pytest
import torch

from native.guarded import guarded
from ops.linear_formula import judge
from qlora_kernels import native
from qlora_kernels.formats import Adapter
from qlora_kernels.ops.qlora_linear import native_kernel
from qlora_kernels.ops.qlora_linear.call import Gradients, Layer, Needs
from qlora_kernels.testing.cases import (
    DORA_CASES,
    FLOAT_DTYPES,
    LINEAR_CASES,
    LinearCase,
    linear_problem,
)
from qlora_kernels.testing.error_rule import ErrorRule

# Beside the shared list: every height of a tile, few rows and more, both ways to pack a weight, a
# rank of several strips, depths of several panels (k, the rank, and rows that threads share
# elsewhere), several row blocks; few rows with an odd block, rows of W left over, and more columns
# than are summed at once.
CASES = (
    *LINEAR_CASES,
    *DORA_CASES[:4],
    *(LinearCase(m, 33, 48, rank=4, block_size=32) for m in range(1, 15)),
    *(LinearCase(m, 64, 128, rank=4, double_quant=m % 2 == 0) for m in range(1, 9)),
    *(LinearCase(m, 197, 64 * m + 128, rank=2, bias=True) for m in range(1, 9)),
    LinearCase(8, 13, 1216, rank=4, block_size=128),
    LinearCase(2, 32, 6240, block_size=32),
    LinearCase(8, 40, 1024, rank=16, format="int8", double_quant=False),
    LinearCase(13, 50, 40, rank=33, format="fp4"),
    LinearCase(12, 19, 57, rank=2, format="int8", dropout=0.5, dropout_on="input"),
    LinearCase(1600, 20, 24, rank=2, bias=True, dropout=0.1),
    LinearCase(1541, 17, 31, rank=3, bias=True, dropout=0.1, dropout_on="input"),
    LinearCase(20, 800, 16, rank=20, bias=True),
    LinearCase(520, 48, 64, rank=400),
)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_error_rule(isa: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in CASES:
        judge(rule, case, linear_problem(case, dtype))
    rule.check()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_outputs_stay_inside_their_memory(isa: str, dtype: torch.dtype):
    kernels = native.cpu()
    for case in CASES:
        p = linear_problem(case, dtype)
        weight = native.weight(p.q)
        adapter = (p.adapter, torch.tensor(p.seed) if case.dropout else None)
        with guarded() as memory:
            y = memory.empty((case.m, case.n), dtype, offset=1)
            kernels.qlora_linear_forward(p.x, [(weight, adapter, (p.bias, None), y)], 3)
            dx = memory.empty((case.m, case.k), dtype, offset=1)
            gradients = Gradients(
                None,
                memory.empty((case.rank, case.k), dtype, offset=1) if case.rank else None,
                memory.empty((case.n, case.rank), dtype, offset=1) if case.rank else None,
                memory.empty((case.n,), dtype, offset=1),
                memory.empty((case.n,), offset=1),
            )
            scale_and_scaled = (torch.ones(case.n), p.dy)
            layer = (p.dy, weight, adapter, scale_and_scaled, gradients)
            kernels.qlora_linear_backward(p.x, dx, [layer], 3)
            for out in (y, dx, *gradients):
                assert out is None or out.isfinite().all(), f"{case}: unwritten, or from beyond"


def test_inputs_are_read_inside_their_memory(isa: str):
    """NaN around every input would spread to the outputs."""
    for case in CASES:
        p = linear_problem(case, torch.float32)
        inside = {}
        for name, tensor in {"x": p.x, "dy": p.dy, "bias": p.bias}.items():
            inside[name] = None if tensor is None else fenced(tensor)
        adapter = p.adapter and replace(p.adapter, a=fenced(p.adapter.a), b=fenced(p.adapter.b))
        seed = torch.tensor(p.seed) if case.dropout else None
        y = native_kernel.forward(inside["x"], p.q, adapter, inside["bias"], seed)
        gradients = native_kernel.backward(
            inside["dy"], inside["x"], p.q, adapter, seed, Needs(True, True, True, True)
        )
        for out in (y, *gradients):
            assert out is None or out.isfinite().all(), case


def fenced(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with NaN before and behind."""
    buffer = torch.full((tensor.numel() + 128,), float("nan"), dtype=tensor.dtype)
    inside = buffer[64:-64].view(tensor.shape)
    return inside.copy_(tensor)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_what_is_not_needed_is_not_computed(isa: str, dtype: torch.dtype):
    """Each gradient alone has the bits that it has beside the others."""
    p = linear_problem(LinearCase(40, 65, 127, rank=8, bias=True, dropout=0.2), dtype)
    layer = Layer(p.q, p.adapter, torch.tensor(p.seed), torch.linspace(0.5, 2, 65))

    def gradients(*needs: bool) -> Gradients:
        return native_kernel.backward_group([p.dy], p.x, [layer], [Needs(*needs)], [p.dy])[0]

    together = gradients(True, True, True, True, True)
    for i, name in enumerate(Gradients._fields):
        alone = gradients(*(j == i for j in range(5)))
        assert torch.equal(getattr(alone, name), getattr(together, name))
        assert all(getattr(alone, other) is None for other in Gradients._fields if other != name)


def test_sizes_that_do_not_fit_are_refused(isa: str):
    """The last line of defence: the bindings check what memory safety rests on."""
    kernels, p = native.cpu(), linear_problem(LinearCase(4, 8, 64), torch.float32)
    weight, none = native.weight(p.q), (None, None)
    wrong = [
        (p.x[:, :32].contiguous(), torch.empty(4, 8), None, r"x: should be of shape \[..., 64\]"),
        (p.x, torch.empty(4, 9), None, r"y: should be of shape \[4, 8\], was \[4, 9\]"),
        (p.x, torch.empty(8, 4).T, None, "y: should be contiguous"),
        (p.x, torch.empty(4, 8), torch.empty(9), r"bias: should be of shape \[8\]"),
        (p.x.double(), torch.empty(4, 8), None, "x: should be a tensor of float32"),
        (p.x.to("meta"), torch.empty(4, 8), None, "x: should be on the CPU, was meta"),
    ]
    for x, y, bias, message in wrong:
        with pytest.raises(ValueError, match=message):
            kernels.qlora_linear_forward(x, [(weight, none, (bias, None), y)], 1)
    with pytest.raises(ValueError, match=r"a: should be of shape \[2, 64\]"):
        adapter = Adapter(torch.empty(2, 63), torch.empty(8, 2), 1.0)
        y = torch.empty(4, 8)
        kernels.qlora_linear_forward(p.x, [(weight, (adapter, None), (None, None), y)], 1)
    with pytest.raises(ValueError, match=r"codes: should be of shape \[256, 1\]"):
        native.weight(replace(p.q, codes=p.q.codes[:-1]))
    with pytest.raises(ValueError, match="block_size: should be a power of two"):
        native.weight(replace(p.q, block_size=48))


class Described(torch.Tensor):
    """A type that torch's C exchange is not asked about, so that its attributes are read."""


def test_tensors_are_read_the_same_in_both_ways():
    """By DLPack's C exchange, which torch has from 2.10 on, and by attributes."""
    p = linear_problem(LinearCase(2, 48, 64, rank=4), torch.float32)
    weight, threads = native.weight(p.q), torch.get_num_threads()
    results = []
    for x in (p.x, p.x.as_subclass(Described)):
        results.append(y := torch.empty(2, 48))
        arguments = (weight, (p.adapter, None), (None, None), y)
        native.cpu().qlora_linear_forward(x, [arguments], threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", [torch.Tensor, Described])
def test_tensors_that_no_kernel_can_walk_are_refused(kind: type[torch.Tensor]):
    p = linear_problem(LinearCase(2, 48, 64), torch.float32)
    x = p.x.T.contiguous()
    arguments = (native.weight(p.q), (None, None), (None, None), torch.empty(2, 48))
    refused = {
        "contiguous, was strided": x.T,
        "was torch.float64": x.double().T.contiguous(),
        "on the CPU, was meta": torch.empty(2, 64, device="meta"),
        "was of their negatives": torch._neg_view(x.T.contiguous()),
    }
    for reason, tensor in refused.items():
        with pytest.raises(ValueError, match=f"x: should be .*{reason}"):
            native.cpu().qlora_linear_forward(tensor.as_subclass(kind), [arguments], 1)


def test_a_weight_that_is_none_is_refused():
    x, y = torch.randn(1, 64), torch.empty(1, 64)
    for call, layer in (
        (native.cpu().qlora_linear_forward, (None, (None, None), (None, None), y)),
        (native.cpu().qlora_linear_backward, (y, None, (None, None), (None, None), None)),
    ):
        arguments = (x, [layer], 1) if len(layer) == 4 else (x, None, [layer], 1)
        with pytest.raises(TypeError, match="incompatible function arguments"):
            call(*arguments)
