"""The chunked loss head against torch's cross entropy, by the error rule."""

from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

import qlora_kernels as qk
from qlora_kernels.ops.linear_cross_entropy import native_kernel, reference
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE, Problem
from qlora_kernels.testing.cases import FLOAT_DTYPES, generator
from qlora_kernels.testing.error_rule import ErrorRule


@dataclass(frozen=True)
class Case:
    m: int
    k: int
    v: int
    ignored: float = 0.3
    label_smoothing: float = 0.0
    reduction: str = "mean"
    seed: int = 0


CASES = (
    Case(1, 8, 11, ignored=0.0),
    Case(37, 32, 101),
    Case(64, 48, 257, ignored=0.9),
    Case(50, 64, 1000, label_smoothing=0.1),
    Case(33, 16, 50, label_smoothing=0.3, reduction="sum"),
    Case(20, 40, 2, ignored=0.0, reduction="sum"),
)
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(case: Case, dtype: torch.dtype) -> Tensors:
    random = generator(case)
    labels = torch.randint(case.v, (case.m,), generator=random)
    labels[torch.rand(case.m, generator=random) < case.ignored] = IGNORE
    hidden = torch.randn(case.m, case.k, generator=random)
    head = torch.randn(case.v, case.k, generator=random) * 0.5
    return hidden.to(dtype), head.to(dtype), labels


def ours(case: Case, hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor):
    return qk.linear_cross_entropy(
        hidden, head, labels, label_smoothing=case.label_smoothing, reduction=case.reduction
    )


def plain(case: Case, hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor):
    accumulator = torch.promote_types(hidden.dtype, torch.float32)
    return cross_entropy(
        linear(hidden, head).to(accumulator),
        labels,
        label_smoothing=case.label_smoothing,
        reduction=case.reduction,
    )


def outputs(loss, case: Case, given: Tensors) -> dict[str, torch.Tensor]:
    hidden, head, labels = given
    hidden, head = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    value = loss(case, hidden, head, labels)
    value.backward()
    return {"loss": value.detach(), "dhidden": hidden.grad, "dhead": head.grad}


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1000])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_gradients(dtype: torch.dtype, rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch):
    rule = ErrorRule(dtype)
    for case in CASES:
        monkeypatch.setattr(reference, "_CHUNK_BYTES", rows_per_chunk * case.v * 4)
        hidden, head, labels = tensors(case, dtype)
        results = outputs(ours, case, (hidden, head, labels))
        yardstick = outputs(plain, case, (hidden, head, labels))
        truth = outputs(plain, case, (hidden.double(), head.double(), labels))
        for name in ("dhidden", "dhead"):
            assert results[name].dtype == dtype
            rule.add(str(case), name, results[name], yardstick[name], truth[name])
    rule.check()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_loss(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """One number a case: only many of them tell a bias from chance."""
    rule = ErrorRule(dtype)
    for case in (replace(c, seed=seed) for seed in range(40) for c in CASES):
        monkeypatch.setattr(reference, "_CHUNK_BYTES", 7 * case.v * 4)
        hidden, head, labels = tensors(case, dtype)
        result = ours(case, hidden, head, labels)
        yardstick = plain(case, hidden, head, labels)
        assert result.dtype == yardstick.dtype == torch.float32
        truth = plain(case, hidden.double(), head.double(), labels)
        rule.add(str(case), "loss", result, yardstick, truth)
    rule.check()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_gradcheck(label_smoothing: float):
    case = Case(5, 3, 4, label_smoothing=label_smoothing)
    hidden, head, labels = tensors(case, torch.float64)
    labels[0] = IGNORE
    leaves = hidden.requires_grad_(), head.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: ours(case, h, w, labels), leaves)


def test_leading_dimensions_are_rows():
    hidden, head, labels = tensors(CASES[3], torch.float32)
    flat = ours(CASES[3], hidden, head, labels)
    assert torch.equal(ours(CASES[3], hidden.view(5, 10, -1), head, labels.view(5, 10)), flat)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("rows", [0, 4])
def test_without_a_label_the_loss_and_its_gradients_are_zero(rows: int, reduction: str):
    case = Case(rows, 8, 11, reduction=reduction)
    hidden, head, labels = tensors(case, torch.float32)
    results = outputs(ours, case, (hidden, head, torch.full_like(labels, IGNORE)))
    assert not any(tensor.any() for tensor in results.values())


class Sizes(TorchDispatchMode):
    """Remembers the largest floating-point tensor that any operator returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        returned = result if isinstance(result, tuple | list) else (result,)
        sizes = [
            t.numel() for t in returned if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]
        self.largest = max(self.largest, *sizes, 0)
        return result


def test_logits_are_never_whole(monkeypatch: pytest.MonkeyPatch):
    m, k, v, rows = 64, 4, 1000, 8
    hidden, head, labels = tensors(Case(m, k, v), torch.float32)
    monkeypatch.setattr(reference, "_CHUNK_BYTES", rows * v * 4)
    with Sizes() as sizes:
        reference.linear_cross_entropy(hidden, head, Problem(labels, 0.1, True, True))
    assert rows * v == sizes.largest < m * v


def saved_bytes(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> int:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        qk.linear_cross_entropy(hidden, head, labels, reduction="sum")
    return sum(t.numel() * t.element_size() for t in saved)


def test_a_frozen_head_keeps_no_gradient():
    hidden, head, labels = tensors(Case(8, 4, 500), torch.float32)
    small, large = hidden.numel() * 4, head.numel() * 4
    assert saved_bytes(hidden.requires_grad_(), head, labels) == small
    assert saved_bytes(hidden, head.requires_grad_(), labels) == small + large
    assert saved_bytes(hidden.detach(), head, labels) == large


def test_a_head_of_another_dtype_gets_its_own():
    hidden, head, labels = tensors(CASES[1], torch.float32)
    results = outputs(ours, CASES[1], (hidden, head.bfloat16(), labels))
    assert results["dhead"].dtype == torch.bfloat16 and results["loss"].dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "m", "kernel"),
    [
        (torch.float32, 15, reference),
        (torch.float32, 16, native_kernel),
        (torch.bfloat16, 1, reference),
        (torch.bfloat16, 2, native_kernel),
    ],
)
def test_the_kernel_that_is_faster_for_so_many_rows_runs(
    dtype: torch.dtype, m: int, kernel: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    ran = []
    for module in (reference, native_kernel):
        run = module.linear_cross_entropy
        spy = partial(lambda own, call, *given: (ran.append(own), call(*given))[1], module, run)
        monkeypatch.setattr(module, "linear_cross_entropy", spy)
    hidden, head, labels = tensors(Case(m, 8, 11), dtype)
    qk.linear_cross_entropy(hidden, head, labels)
    assert ran == [kernel]


HIDDEN, HEAD, LABELS = tensors(Case(6, 8, 11, ignored=0), torch.float32)
REFUSALS = {
    "head should be [v, k] with k = 8, was [11, 7]": (HIDDEN, HEAD[:, 1:], LABELS),
    "labels should be [6], was [5]": (HIDDEN, HEAD, LABELS[1:]),
    "labels should be [2, 3], was [6]": (HIDDEN.view(2, 3, 8), HEAD, LABELS),
    "labels should be int64, was int32": (HIDDEN, HEAD, LABELS.int()),
    "hidden should be float32 or bfloat16 or": (HIDDEN.int(), HEAD, LABELS),
    "head should be float32 or bfloat16 or": (HIDDEN, HEAD.int(), LABELS),
    "labels should be below the vocabulary's 11 or -100, was 11": (HIDDEN, HEAD, LABELS * 0 + 11),
    "labels should be below the vocabulary's 11 or -100, was -1": (HIDDEN, HEAD, LABELS * 0 - 1),
}


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text: str):
    with pytest.raises(qk.InputError) as refusal:
        qk.linear_cross_entropy(*REFUSALS[text])
    assert str(refusal.value).startswith(f"linear_cross_entropy: {text}")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing should be in [0, 1), was 1.0"),
        ({"reduction": "none"}, "reduction should be one of mean, sum, was 'none'"),
    ],
)
def test_refused_options(options: dict[str, object], text: str):
    with pytest.raises(qk.InputError) as refusal:
        qk.linear_cross_entropy(HIDDEN, HEAD, LABELS, **options)
    assert str(refusal.value) == f"linear_cross_entropy: {text}"
