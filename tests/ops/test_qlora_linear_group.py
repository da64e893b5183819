"""Layers that share x in one call: what each gives is what a call of its own gives."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.formats import Adapter
from qlora_kernels.ops import Linear, qlora_linear_group
from qlora_kernels.testing.cases import FLOAT_DTYPES
from qlora_kernels.testing.error_rule import ErrorRule

M, K = 9, 48


def linear(n: int, rank: int = 4, seed: int = 0, **adapter: object) -> Linear:
    """A layer [n, 48] with leaves that want gradients."""
    generator = torch.Generator().manual_seed(seed + n)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    q = qk.quantize(torch.randn(n, K, generator=generator))
    norm = None
    if adapter.pop("dora", False):
        adapter["magnitude"], norm = leaf(n), torch.rand(n, generator=generator) + 0.5
    factors = Adapter(leaf(rank, K), leaf(n, rank), 0.5, **adapter)
    return Linear(q, factors, leaf(n), seed=7 + n, column_norm=norm)


def leaves(linears: tuple[Linear, ...]) -> list[torch.Tensor]:
    found = []
    for one in linears:
        adapter = one.adapter
        factors = () if adapter is None else (adapter.a, adapter.b, adapter.magnitude)
        found += [t for t in (*factors, one.bias) if t is not None]
    return found


GROUPS = {
    "plain": (linear(20), linear(12)),
    "three ranks": (linear(32, rank=7), linear(16, rank=1), linear(17, rank=40)),
    "dropout on the rank": (linear(20, dropout=0.3), linear(12, dropout=0.3)),
    "dropout on the input": tuple(linear(n, dropout=0.3, dropout_on="input") for n in (9, 8, 7)),
    "dora": (linear(20, dora=True), linear(12), linear(13, dora=True)),
    "dora, input": tuple(linear(n, dora=True, dropout=0.2, dropout_on="input") for n in (9, 8)),
    "one without adapter": (linear(20), replace(linear(12), adapter=None, bias=None)),
}


def separately(x: torch.Tensor, linears: tuple[Linear, ...]) -> list[torch.Tensor]:
    return [
        qk.qlora_linear(x, one.q, one.adapter, one.bias, seed=one.seed, column_norm=one.column_norm)
        for one in linears
    ]


def rows_and_gradients(linears: tuple[Linear, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """x [3, 3, 48], then dy of each layer."""
    generator = torch.Generator().manual_seed(1)
    widths = [K, *(one.q.shape[0] for one in linears)]
    return [torch.randn(3, M // 3, width, generator=generator).to(dtype) for width in widths]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_each_layer_gives_what_it_gives_alone(backend: str, name: str, dtype: torch.dtype):
    check_bits(GROUPS[name], dtype)


def test_layers_of_different_backends_share_an_operator():
    dense = replace(linear(12), q=torch.randn(12, K))
    check_bits((linear(20), dense), torch.float32)


def check_bits(linears: tuple[Linear, ...], dtype: torch.dtype) -> None:
    x, *dys = rows_and_gradients(linears, dtype)
    x.requires_grad_()
    together, alone = qlora_linear_group(x, linears), separately(x, linears)
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours, theirs)
    ours = torch.autograd.grad(together, leaves(linears), dys)
    theirs = torch.autograd.grad(alone, leaves(linears), dys)
    for gradient, expected in zip(ours, theirs, strict=True):
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_the_summed_gradient_of_x(backend: str, dtype: torch.dtype):
    """Against separate calls, whose three gradients autograd adds."""
    rule = ErrorRule(dtype)
    for name, linears in GROUPS.items():
        x, *dys = (t.requires_grad_() for t in rows_and_gradients(linears, dtype))
        [ours] = torch.autograd.grad(qlora_linear_group(x, linears), x, dys)
        [plain] = torch.autograd.grad(separately(x, linears), x, dys)
        with qk.use_backend("reference"):
            exact = x.detach().double().requires_grad_()
            [truth] = torch.autograd.grad(
                separately(exact, linears), exact, [dy.double() for dy in dys]
            )
        rule.add(name, "dx", ours, plain, truth)
    rule.check()


def test_an_output_that_nobody_uses_costs_nothing_wrong(backend: str):
    linears = GROUPS["plain"]
    x = torch.randn(M, K, requires_grad=True)
    first, _ = qlora_linear_group(x, linears)
    [dx] = torch.autograd.grad(first.sum(), x)
    [expected] = torch.autograd.grad(
        qk.qlora_linear(x, linears[0].q, linears[0].adapter, linears[0].bias).sum(), x
    )
    torch.testing.assert_close(dx, expected)


@pytest.mark.parametrize("count", [0, 4])
def test_other_numbers_of_layers_are_refused(count: int):
    with pytest.raises(qk.InputError, match=f"linears should be 1, 2, 3, were {count}"):
        qlora_linear_group(torch.randn(2, K), [linear(8)] * count)
