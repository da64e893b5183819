"""The loss head's kernel on every instruction set: the error rule, its memory, and its threads."""

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from ops.test_linear_cross_entropy import CASES, Case, outputs, plain, tensors
from qlora_kernels import native
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE
from qlora_kernels.testing.cases import FLOAT_DTYPES
from qlora_kernels.testing.error_rule import ErrorRule

# Beside the ops' own: full strips and rests, several segments of the head, depths of several
# panels, more rows than one pass takes.
MORE = (
    Case(16, 24, 192, ignored=0.0),
    Case(17, 400, 193, label_smoothing=0.1),
    Case(5, 7, 500, reduction="sum"),
    Case(1100, 6, 20, ignored=0.1),
    Case(3, 1, 1, ignored=0.0, reduction="sum"),
)
EVERY = (*CASES, *MORE)


def ours(case: Case, hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor):
    smoothing, reduction = case.label_smoothing, case.reduction
    return qk.linear_cross_entropy(
        hidden, head.detach(), labels, label_smoothing=smoothing, reduction=reduction
    )


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_error_rule(isa: str, dtype: torch.dtype):
    rule = ErrorRule(dtype)
    for case in EVERY:
        hidden, head, labels = tensors(case, dtype)
        found = outputs(ours, case, (hidden, head, labels))
        yardstick = outputs(plain, case, (hidden, head, labels))
        truth = outputs(plain, case, (hidden.double(), head.double(), labels))
        assert found["dhidden"].dtype == dtype
        rule.add(str(case), "dhidden", found["dhidden"], yardstick["dhidden"], truth["dhidden"])
        loss = torch.stack([found["loss"], yardstick["loss"], truth["loss"].float()])
        assert (loss[0] - loss[2]).abs() <= (loss[1] - loss[2]).abs() + 1e-6 * loss[2].abs()
    rule.check()


def test_large_logits_neither_overflow_nor_vanish(isa: str):
    """Maxima that rise late, labels far below them, logits beyond the range of e^x."""
    head = torch.linspace(-300, 300, 400)[:, None] * torch.ones(1, 3)
    hidden = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 0.3, 0.1], [0.0, 0, 0]]).requires_grad_()
    labels = torch.tensor([0, 0, 250, 7])
    loss = qk.linear_cross_entropy(hidden, head, labels, reduction="sum")
    loss.backward()
    leaf = hidden.detach().double().requires_grad_()
    truth = torch.nn.functional.cross_entropy(leaf @ head.double().T, labels, reduction="sum")
    truth.backward()
    torch.testing.assert_close(loss, truth.float())
    torch.testing.assert_close(hidden.grad, leaf.grad.float(), rtol=1e-5, atol=1e-4)


def test_a_logit_that_is_not_a_number_is_seen(isa: str):
    head = torch.randn(400, 8)
    head[399, 3] = float("nan")
    hidden = torch.randn(3, 8).requires_grad_()
    loss = qk.linear_cross_entropy(hidden, head, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.isnan() and hidden.grad.isnan().any()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_outputs_stay_inside_their_memory(isa: str, dtype: torch.dtype):
    for case in EVERY:
        hidden, head, labels = tensors(case, dtype)
        labels = labels.clamp(min=0)
        with guarded() as memory:
            loss = memory.empty((), offset=1)
            dhidden = memory.empty(hidden.shape, dtype, offset=1)
            native.cpu().linear_cross_entropy(hidden, head, labels, 0.1, (loss, dhidden), 3)
            assert loss.isfinite() and dhidden.isfinite().all(), f"{case}: unwritten"
            alone = memory.empty(())
            native.cpu().linear_cross_entropy(hidden, head, labels, 0.1, (alone, None), 1)
            assert torch.equal(alone, loss)


def test_it_does_not_depend_on_the_number_of_threads(isa: str):
    hidden, head, labels = tensors(Case(70, 200, 1500, ignored=0.0), torch.float32)
    results = []
    for threads in (1, 2, 3, 7):
        loss, dhidden = torch.empty(()), torch.empty_like(hidden)
        native.cpu().linear_cross_entropy(hidden, head, labels, 0.1, (loss, dhidden), threads)
        results.append((loss, dhidden))
    for loss, dhidden in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(dhidden, results[0][1])


def test_what_does_not_fit_is_refused(isa: str):
    """The last line of defence: the bindings check what memory safety rests on."""
    hidden, head, labels = torch.randn(4, 8), torch.randn(11, 8), torch.tensor([0, 1, 2, 10])
    loss, dhidden = torch.empty(()), torch.empty(4, 8)
    wrong = [
        ((hidden[:, 1:].contiguous(), head, labels, (loss, None)), r"hidden: should be of shape"),
        ((hidden, head, labels[1:], (loss, None)), r"labels: should be of shape \[4\]"),
        ((hidden, head, labels + 1, (loss, None)), "labels: should be below 11, was 11"),
        ((hidden, head, labels * 0 + IGNORE, (loss, None)), "labels: should be below 11, was -100"),
        ((hidden, head, labels, (loss, dhidden[:3])), r"dhidden: should be of shape \[4, 8\]"),
        ((hidden, head, labels, (torch.empty(1), None)), r"loss: should be of shape \[\]"),
    ]
    for (*inputs, results), message in wrong:
        with pytest.raises(ValueError, match=message):
            native.cpu().linear_cross_entropy(*inputs, 0.0, results, 1)


def test_a_head_that_learns_is_refused(isa: str):
    hidden, head = torch.randn(20, 8), torch.randn(11, 8).requires_grad_()
    with pytest.raises(qk.InputError, match="cpu: the head wants a gradient"):
        qk.linear_cross_entropy(hidden, head, torch.zeros(20, dtype=torch.int64))
