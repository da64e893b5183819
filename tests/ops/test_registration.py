"""The ops as torch operators: opcheck, fake tensors, and torch.compile in one graph."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import qlora_kernels as qk
from ops.linear_formula import op, outputs
from qlora_kernels.ops.qlora_linear.call import Layer
from qlora_kernels.testing.cases import LinearCase, linear_problem

OPERATORS = torch.ops.qlora_kernels
CASE = LinearCase(6, 20, 36, rank=4, bias=True, dropout=0.2, format="fp4")
PROBLEM = linear_problem(CASE, torch.float32)
SEED = torch.tensor(5)
Q = PROBLEM.q
PLAIN = qk.quantize(torch.randn(5, 33), "int8", 32, double_quant=False)
HIDDEN, HEAD = torch.randn(6, 8), torch.randn(11, 8)
LABELS = torch.tensor([1, 2, -100, 3, 0, 10])


def linear(wants_gradients: bool) -> tuple[object, ...]:
    a, b = (
        t.clone().requires_grad_(wants_gradients) for t in (PROBLEM.adapter.a, PROBLEM.adapter.b)
    )
    x = PROBLEM.x.clone().requires_grad_(wants_gradients)
    bias = PROBLEM.bias.clone().requires_grad_(wants_gradients)
    scale = torch.rand(20).requires_grad_(wants_gradients)
    return x, *Layer(Q, replace(PROBLEM.adapter, a=a, b=b), SEED, scale, bias).flatten()


def backward(*needs: bool) -> tuple[object, ...]:
    layer = Layer(Q, PROBLEM.adapter, SEED, torch.rand(20)).flatten()
    return PROBLEM.dy, PROBLEM.dy, PROBLEM.x, *layer, list(needs)


def group(wants_gradients: bool) -> tuple[object, ...]:
    x, *layer = linear(wants_gradients)
    plain = qk.quantize(torch.randn(7, 36), "int8", 32)
    return x, *layer, *Layer(plain, None).flatten()


def group_backward(*needs: bool) -> tuple[object, ...]:
    dy, scaled, x, *layer, _ = backward()
    plain = Layer(qk.quantize(torch.randn(7, 36), "int8", 32), None).flatten()
    return dy, torch.randn(6, 7), scaled, None, x, *layer, *plain, list(needs)


def loss(hidden: bool, head: bool) -> tuple[object, ...]:
    tensors = HIDDEN.clone().requires_grad_(hidden), HEAD.clone().requires_grad_(head)
    return *tensors, LABELS, 0.1, hidden, head


CALLS: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "quantize": (OPERATORS.quantize.default, (torch.randn(5, 33), "nf4", 64, True)),
    "quantize plain": (OPERATORS.quantize.default, (torch.randn(5, 33), "int8", 64, False)),
    "quantize searched": (OPERATORS.quantize.default, (torch.randn(5, 33), "nf4", 64, True, True)),
    "dequantize": (OPERATORS.dequantize.default, (*Q.flatten(), torch.bfloat16)),
    "dequantize plain": (OPERATORS.dequantize.default, (*PLAIN.flatten(), torch.float64)),
    "dropout_mask": (OPERATORS.dropout_mask.default, (SEED, [3, 4], 0.5)),
    "qlora_linear": (OPERATORS.qlora_linear.default, linear(False)),
    "qlora_linear, gradients": (OPERATORS.qlora_linear.default, linear(True)),
    "qlora_linear_backward": (OPERATORS.qlora_linear_backward.default, backward(*[True] * 5)),
    "only dx": (OPERATORS.qlora_linear_backward.default, backward(True, *[False] * 4)),
    "group": (OPERATORS.qlora_linear_of_2.default, group(False)),
    "group, gradients": (OPERATORS.qlora_linear_of_2.default, group(True)),
    "backward of a group": (
        OPERATORS.qlora_linear_of_2_backward.default,
        group_backward(*[True] * 5, *[False] * 4),
    ),
    "triple": (OPERATORS.qlora_linear_of_3.default, (*group(True), *Layer(Q, None).flatten())),
    "backward of a triple": (
        OPERATORS.qlora_linear_of_3_backward.default,
        (
            *[torch.randn(6, n) for n in (20, 20, 20)],
            *[None] * 3,
            PROBLEM.x,
            *Layer(Q, PROBLEM.adapter, SEED).flatten() * 3,
            [True, *[True, True, False, False] * 3],
        ),
    ),
    "dora_column_norm": (
        OPERATORS.dora_column_norm.default,
        (*Q.flatten(), PROBLEM.adapter.a, PROBLEM.adapter.b, 0.5),
    ),
    "linear_cross_entropy": (OPERATORS.linear_cross_entropy.default, loss(False, False)),
    "frozen head": (OPERATORS.linear_cross_entropy.default, loss(True, False)),
    "trainable head": (OPERATORS.linear_cross_entropy.default, loss(True, True)),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("call", CALLS)
def test_opcheck(call: str):
    operator, arguments = CALLS[call]
    torch.library.opcheck(operator, arguments)


def test_opcheck_of_the_out_variant():
    torch.library.opcheck(OPERATORS.dequantize.out, Q.flatten(), {"out": torch.zeros(Q.shape)})


def test_every_operator_is_checked():
    defined = set(torch._C._dispatch_get_all_op_names())
    ours = {n.removeprefix("qlora_kernels::") for n in defined if n.startswith("qlora_kernels::")}
    checked = {
        operator._schema.name.removeprefix("qlora_kernels::") for operator, _ in CALLS.values()
    }
    assert ours == checked | {"dequantize.out"}


def test_one_graph_serves_every_number_of_rows(backend: str):
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(op, fullgraph=True, backend=graphs, dynamic=True)
    counts = []
    for m in (6, 2, 5, 31):
        problem = linear_problem(replace(CASE, m=m), torch.float32)
        eager = outputs(op, problem)
        for name, tensor in outputs(compiled, problem).items():
            assert torch.equal(tensor, eager[name]), name
        counts.append(graphs.frame_count)
    assert len(set(counts)) == 1, f"compiled again: {counts}"


def test_sizes_that_torch_guessed_static_settle(backend: str):
    """Without dynamic=True a size is static until it changes, then dynamic for good."""
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x: qk.qlora_linear(x, Q, PROBLEM.adapter, PROBLEM.bias, seed=7),
        fullgraph=True,
        backend=graphs,
    )
    counts = []
    for shape in ((2, 3), (2, 9), (5, 4), (3, 8), (7, 2)):
        compiled(torch.randn(*shape, 36))
        counts.append(graphs.frame_count)
    assert counts[2] == counts[-1], f"compiled again: {counts}"


# torch's own import of Inductor warns, once in a process.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_inductor_runs_it(backend: str):
    compiled = torch.compile(op, fullgraph=True)
    eager = outputs(op, PROBLEM)
    for name, tensor in outputs(compiled, PROBLEM).items():
        assert torch.equal(tensor, eager[name]), name


def test_the_other_ops_compile_in_one_graph(backend: str):
    def decode(w: torch.Tensor) -> torch.Tensor:
        q = qk.quantize(w)
        return qk.dequantize(q) * qk.dropout_mask(3, w.shape, 0.5)

    w = torch.randn(7, 40)
    assert torch.equal(torch.compile(decode, fullgraph=True, backend="aot_eager")(w), decode(w))


def test_the_loss_compiles_in_one_graph():
    def run(hidden: torch.Tensor) -> torch.Tensor:
        return qk.linear_cross_entropy(hidden, HEAD, LABELS, label_smoothing=0.1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    value, gradient = torch.autograd.functional.vjp(compiled, HIDDEN)
    expected = torch.autograd.functional.vjp(run, HIDDEN)
    assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])


def test_a_refusal_inside_a_compiled_graph_is_still_one_line():
    compiled = torch.compile(lambda x: qk.qlora_linear(x, Q), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"qlora_linear: x should be \[\.\.\., k\]"):
        compiled(torch.randn(2, 35))


def test_quantizing_a_parameter_starts_no_graph(backend: str):
    w = torch.nn.Parameter(torch.randn(5, 33))
    for double_quant in (False, True):
        q = qk.quantize(w, double_quant=double_quant)
        parts = (q.codes, q.scales, q.nested_absmax, q.nested_offset)
        assert not any(t is not None and t.requires_grad for t in parts)
        assert not qk.dequantize(q).requires_grad
