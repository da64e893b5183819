"""The short way of a call: the same bits as torch's operator, and only where nobody watches."""

from dataclasses import replace
from weakref import ref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import qlora_kernels as qk
from qlora_kernels import native
from qlora_kernels.ops.qlora_linear import eager, operator
from qlora_kernels.ops.qlora_linear.call import Layer
from qlora_kernels.testing.cases import LinearCase, linear_problem

CASES = [
    LinearCase(1, 96, 128, rank=4, bias=True),
    LinearCase(9, 33, 192, rank=5, dropout=0.25),
    LinearCase(3, 48, 64),
]


def made(case: LinearCase, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Layer]:
    p = linear_problem(case, dtype)
    adapter = p.adapter
    if adapter is not None:
        a, b = (t.clone().requires_grad_() for t in (adapter.a, adapter.b))
        adapter = replace(adapter, a=a, b=b)
    seed = torch.tensor(7) if case.dropout else None
    bias = None if p.bias is None else p.bias.clone().requires_grad_()
    return p.x.clone().requires_grad_(), Layer(p.q, adapter, seed, None, bias)


def outputs_and_gradients(run, x: torch.Tensor, layers: list[Layer]) -> list[torch.Tensor]:
    ys = run(x, layers)
    adapters = [layer.adapter for layer in layers if layer.adapter is not None]
    leaves = [x, *(t for adapter in adapters for t in (adapter.a, adapter.b))]
    leaves += [layer.bias for layer in layers if layer.bias is not None]
    return [*ys, *torch.autograd.grad(sum((y * y).sum() for y in ys), leaves)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_give_the_same_bits(case: LinearCase, dtype: torch.dtype):
    x, layer = made(case, dtype)
    x = x.detach().view(1, *x.shape).requires_grad_()
    short, long = (outputs_and_gradients(run, x, [layer]) for run in (eager.run, operator.run))
    assert all(map(torch.equal, short, long))
    with torch.no_grad():
        assert torch.equal(eager.run(x, [layer])[0], operator.run(x, [layer])[0])


@pytest.mark.parametrize("case", [case for case in CASES if not case.dropout], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_met_again_gives_the_same_bits(case: LinearCase, dtype: torch.dtype):
    x, layer = made(case, dtype)
    x = x.detach().view(*x.shape[:1], 1, -1)
    with torch.no_grad():
        expected = operator.run(x, [layer])[0]
        base = replace(layer.base)
        for known in (False, True):
            assert (native.known_weight(base) is not None) == known
            assert torch.equal(eager.run_alone(x, base, layer.adapter, layer.bias), expected)
    wanted = eager.run_alone(x, base, layer.adapter, layer.bias).requires_grad
    assert wanted == (layer.adapter is not None)


def test_a_layer_met_again_is_looked_at_anew():
    """What the short way does not take of a known base goes the long way, or is refused there."""
    x, layer = made(CASES[0])
    x, base, bias = x.detach(), layer.base, layer.bias.detach()
    a, b = layer.adapter.a.detach(), layer.adapter.b.detach()
    adapter = replace(layer.adapter, a=a, b=b)
    y = qk.qlora_linear(x, base, adapter, bias)

    class Watched(torch.Tensor):
        pass

    for other, is_taken in (
        ((replace(adapter, a=a.t().contiguous().t()), bias), True),
        ((adapter, bias.repeat_interleave(2)[::2]), True),
        ((adapter, bias.bfloat16()), True),
        ((adapter, bias.double()), False),
        ((replace(adapter, a=a.as_subclass(Watched)), bias), False),
    ):
        assert (eager.run_alone(x, base, *other) is not None) == is_taken
        torch.testing.assert_close(
            qk.qlora_linear(x, base, *other), y, rtol=0, atol=0.02, check_dtype=False
        )
    rows = x.expand(3, -1)
    assert not rows.is_contiguous()
    assert torch.equal(eager.run_alone(rows, base, adapter, bias), y.expand(3, -1))
    for wrong in (replace(adapter, dropout_on="output"), replace(adapter, b=b[:-1])):
        with pytest.raises(qk.InputError):
            qk.qlora_linear(x, base, wrong, bias)
    with pytest.raises(qk.InputError, match="x should be"):
        qk.qlora_linear(x[0, 0], base, adapter, bias)


def test_what_kernels_know_of_a_base_goes_with_it():
    x, layer = made(CASES[2])
    base = replace(layer.base, codes=layer.base.codes.clone())
    qk.qlora_linear(x, base)
    codes, known = ref(base.codes), len(native._weights)
    del base
    assert codes() is None and len(native._weights) == known - 1


def test_a_group_gives_the_same_bits():
    x, first = made(CASES[0])
    second = replace(made(LinearCase(1, 48, 128, rank=2))[1])
    short, long = (
        outputs_and_gradients(run, x, [first, second]) for run in (eager.run, operator.run)
    )
    assert all(map(torch.equal, short, long))


class Names(TorchDispatchMode):
    """The operators that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_who_watches_sees_the_operator():
    x, layer = made(CASES[0])
    with torch.no_grad():
        with Names() as names:
            qk.qlora_linear(x, layer.base, layer.adapter)
        assert "qlora_kernels.qlora_linear.default" in names.seen
        with torch.profiler.profile() as profile:
            qk.qlora_linear(x, layer.base, layer.adapter)
    assert "qlora_kernels::qlora_linear" in {event.key for event in profile.key_averages()}


def test_a_forced_backend_is_heard_in_both_directions():
    x, layer = made(CASES[0])
    with qk.use_backend("reference"):
        assert eager.run(x, [layer]) is None
    y = eager.run(x, [layer])[0]
    with qk.use_backend("reference"):
        dx = torch.autograd.grad(y, x, torch.ones_like(y))[0]
        expected = operator.run(x, [layer])[0]
        assert torch.equal(dx, torch.autograd.grad(expected, x, torch.ones_like(y))[0])


def test_what_changed_since_forward_is_told():
    x, layer = made(CASES[0])
    y = eager.run(x, [layer])[0]
    with torch.no_grad():
        layer.adapter.a.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_memory_that_moved_is_read_where_it_is():
    """`tensor.data = ...` gives the same tensors other memory, as sharding and offloading do."""
    p = linear_problem(CASES[2], torch.float32)
    other = qk.quantize(torch.randn(p.q.shape))
    q = replace(p.q, codes=p.q.codes.clone())
    qk.qlora_linear(p.x, q)
    q.codes.data = other.codes
    assert torch.equal(qk.qlora_linear(p.x, q), qk.qlora_linear(p.x, replace(q)))


def test_tensors_that_a_hook_moved_are_used():
    x, layer = made(CASES[0])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        moved = outputs_and_gradients(eager.run, x, [layer])
    assert all(map(torch.equal, moved, outputs_and_gradients(eager.run, x, [layer])))


def test_gradients_in_a_batch_are_those_one_by_one():
    """torch maps the backward over a batch of dy, whose parts have no memory of their own."""
    x, layer = made(CASES[0])
    y = eager.run(x, [layer])[0]
    dys = torch.randn(3, *y.shape)
    leaves = (x, layer.adapter.a, layer.adapter.b)
    each = [torch.autograd.grad(y, leaves, dy, retain_graph=True) for dy in dys]
    batched = torch.autograd.grad(y, leaves, dys, is_grads_batched=True)
    expected = [torch.stack(one) for one in zip(*each, strict=True)]
    assert all(map(torch.equal, expected, batched))


def test_signs_that_torch_only_noted_count():
    """The imaginary part of a conjugate is a view whose memory has the other sign."""
    x, layer = made(CASES[0])
    a, b = layer.adapter.a.detach(), layer.adapter.b.detach()
    negative = replace(layer, adapter=replace(layer.adapter, a=torch._neg_view(a), b=b))
    expected = replace(layer, adapter=replace(layer.adapter, a=-a, b=b))
    assert torch.equal(
        qk.qlora_linear(x, layer.base, negative.adapter),
        qk.qlora_linear(x, layer.base, expected.adapter),
    )
    y = eager.run(x, [layer])[0]
    ones = torch.ones_like(y)
    [dx] = torch.autograd.grad(y, x, torch._neg_view(ones), retain_graph=True)
    assert torch.equal(dx, torch.autograd.grad(y, x, -ones)[0])


def test_who_watches_backward_alone_sees_the_operator():
    x, layer = made(CASES[0])
    y = eager.run(x, [layer])[0]
    with Names() as names:
        y.sum().backward()
    assert "qlora_kernels.qlora_linear_backward.default" in names.seen


def test_memory_that_was_freed_is_told():
    """Sharding frees what it gathered; a tensor of zeros may have no memory at all."""
    p = linear_problem(CASES[2], torch.float32)
    zeros = torch._efficientzerotensor(p.x.shape)
    assert torch.equal(qk.qlora_linear(zeros, p.q), torch.zeros(3, 48))
    q = replace(p.q, codes=p.q.codes.clone())
    q.codes.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="codes: should be in memory, was freed"):
        qk.qlora_linear(p.x, q)


def test_a_weight_of_other_dimensions_is_refused():
    p = linear_problem(CASES[2], torch.float32)
    q = replace(p.q, shape=torch.Size((48, 1, 64)))
    with pytest.raises(qk.InputError, match=r"q should be \[n, k\]"):
        qk.qlora_linear(p.x, q)
