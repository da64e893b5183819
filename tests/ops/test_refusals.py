"""Bad input to the linear op and to the checks: one line that says what should be and what was."""

import re
from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.checks import check_shapes
from qlora_kernels.testing.cases import LinearCase, linear_problem

PROBLEM = linear_problem(LinearCase(3, 20, 36, rank=4, bias=True), torch.float32)
X, Q, ADAPTER, BIAS = PROBLEM.x, PROBLEM.q, PROBLEM.adapter, PROBLEM.bias


def adapter(**changes: object) -> qk.Adapter:
    return replace(ADAPTER, **changes)


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


FLOATS = "float32 or bfloat16 or float16 or float64"
REFUSALS = {
    "x should be [..., k] with k = 36, was [3, 35]": (X[:, 1:], Q),
    "x should be [..., k] with k = 36, was []": (X[0, 0], Q),
    "q should be [n, k], was [720]": (X, qk.quantize(torch.zeros(720))),
    "q should be [n, k], was [2, 2, 9]": (X, torch.zeros(2, 2, 9)),
    "bias should be [n] with n = 20, was [21]": (X, Q, None, torch.zeros(21)),
    "bias should be [n] with n = 20, was [1, 20]": (X, Q, None, BIAS[None]),
    "was [4, 35]": (X, Q, adapter(a=ADAPTER.a[:, 1:])),
    "was [36]": (X, Q, adapter(a=ADAPTER.a[0])),
    "was [19, 4]": (X, Q, adapter(b=ADAPTER.b[1:])),
    "was [20, 3]": (X, Q, adapter(b=ADAPTER.b[:, 1:])),
    f"x should be {FLOATS}, was int64": (X.long(), Q),
    f"a should be {FLOATS}, was int32": (X, Q, adapter(a=ADAPTER.a.int())),
    f"b should be {FLOATS}, was complex64": (X, Q, adapter(b=ADAPTER.b.cfloat())),
    f"bias should be {FLOATS}, was bool": (X, Q, None, BIAS.bool()),
    "x should be on cpu, was on meta": (meta(3, 36), Q),
    "a should be on cpu, was on meta": (X, Q, adapter(a=meta(4, 36))),
    "bias should be on cpu, was on meta": (X, Q, None, meta(20)),
    "dropout should be in [0, 1), was 1.0": (X, Q, adapter(dropout=1.0)),
    "dropout should be in [0, 1), was -0.5": (X, Q, adapter(dropout=-0.5)),
    "dropout_on should be rank or input, was 'output'": (X, Q, adapter(dropout_on="output")),
    "the base weight should be frozen": (X, torch.zeros(20, 36, requires_grad=True)),
}


@pytest.mark.parametrize("text", REFUSALS)
def test_qlora_linear_refuses(text: str):
    with pytest.raises(qk.InputError, match=re.escape(text)) as refusal:
        qk.qlora_linear(*REFUSALS[text])
    assert str(refusal.value).startswith("qlora_linear: ") and "\n" not in str(refusal.value)


def test_the_same_refusal_without_data():
    """Shapes are checked on fake tensors too, before any kernel."""
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(qk.InputError):
        qk.qlora_linear(torch.empty(3, 35), Q)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({"x": ((2, 3), "m k"), "w": ((5, 4), "n k")}, "w should be [n, k] with k = 3"),
        ({"x": ((2, 3), "m k l")}, "x should be [m, k, l], was [2, 3]"),
        ({"x": ((2, 3), "k k")}, "x should be [k, k]"),
        ({"x": ((3,), "... m k")}, "x should be [..., m, k], was [3]"),
    ],
)
def test_check_shapes_refuses(shapes, text: str):
    with pytest.raises(qk.InputError) as refusal:
        check_shapes("op", **{n: (torch.zeros(s), p) for n, (s, p) in shapes.items()})
    assert str(refusal.value).startswith(f"op: {text}")


def test_check_shapes_binds():
    x, w = torch.zeros(2, 5, 3), torch.zeros(4, 3)
    assert check_shapes("op", x=(x, "... k"), none=(None, "k"), w=(w, "n k")) == {"k": 3, "n": 4}
    assert check_shapes("op", {"n": 4}, w=(w, "n k")) == {"k": 3, "n": 4}
