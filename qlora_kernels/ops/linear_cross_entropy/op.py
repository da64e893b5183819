"""Loss of a language model's head without ever holding its logits whole.

    logits = hidden head^T                                     (a chunk of rows at a time)
    loss   = sum over labelled rows of  logsumexp(logits) - (1 - e) logits[label] - e mean(logits)
    dhidden = (softmax(logits) - (1 - e) onehot - e / v) head

v is the vocabulary, e the label smoothing. Gradients are made in forward, while a chunk's logits
are at hand, and only those that are wanted: a frozen head costs nothing. Source: Cut Cross-Entropy
(arXiv 2411.09009) has the idea.
"""

from collections.abc import Callable
from typing import Any

import torch

from qlora_kernels.checks import (
    FLOATS,
    InputError,
    check_choice,
    check_dtype,
    check_probability,
    check_shapes,
)
from qlora_kernels.dispatch import Room, define
from qlora_kernels.gpu.availability import capturing
from qlora_kernels.ops.linear_cross_entropy import native_kernel, reference, triton_kernel
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE, Problem

ROOM = Room("linear_cross_entropy", native_kernel, triton_kernel, reference)
ROOM_OF_FEW = Room("linear_cross_entropy", reference, native_kernel, triton_kernel)


def linear_cross_entropy(
    hidden: torch.Tensor,
    head: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> torch.Tensor:
    """`cross_entropy(hidden head^T, labels)`, differentiable in hidden and, if it is trainable,
    head.

    hidden: [..., k] float; head: [v, k] float; labels: int64 [...], -100 where a row has no loss.
    reduction: "mean" over the labelled rows (0 if there are none) or "sum". Returns a float32
    scalar (float64 for float64 input). No shift is applied: row i is judged by label i.

    Raises InputError for shapes and dtypes that do not fit and for labels outside the vocabulary.
    """
    op = "linear_cross_entropy"
    sizes = check_shapes(op, hidden=(hidden, "... k"), head=(head, "v k"))
    check_dtype(op, "hidden", hidden, FLOATS)
    check_dtype(op, "head", head, FLOATS)
    check_dtype(op, "labels", labels, (torch.int64,))
    check_probability(op, "label_smoothing", label_smoothing)
    check_choice(op, "reduction", reduction, ("mean", "sum"))
    if labels.shape != hidden.shape[:-1]:
        raise InputError(
            f"{op}: labels should be {list(hidden.shape[:-1])}, was {list(labels.shape)}"
        )
    flat = hidden.reshape(-1, sizes["k"])
    needs = [t.requires_grad and torch.is_grad_enabled() for t in (hidden, head)]
    total, *_ = _linear_cross_entropy(flat, head, labels.reshape(-1), label_smoothing, *needs)
    if reduction == "sum":
        return total
    return total / (labels != IGNORE).sum().clamp(min=1)


def _run(hidden: torch.Tensor, head: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    problem = Problem(*rest)
    _check_labels(problem.labels, head.shape[0])
    kernel = (ROOM_OF_FEW if _are_few(hidden) else ROOM).choose(hidden, head, problem)
    results = kernel.linear_cross_entropy(hidden, head, problem)
    # An operator cannot return None, so what is not wanted comes back empty.
    return tuple(hidden.new_empty(0) if t is None else t for t in results)


def _are_few(hidden: torch.Tensor) -> bool:
    """Whether plain torch is faster: the native kernel packs the head, however few the rows.

    Measured with AVX2, where torch has a fast product of float32 alone.
    """
    few = 16 if hidden.dtype == torch.float32 else 2
    return hidden.device.type == "cpu" and hidden.shape[0] < few


def _check_labels(labels: torch.Tensor, v: int) -> None:
    """Refuse labels outside the vocabulary; a captured graph does so on the GPU, as it replays."""
    outside = (labels != IGNORE) & ((labels < 0) | (labels >= v))
    rule = f"linear_cross_entropy: labels should be below the vocabulary's {v} or {IGNORE}"
    if capturing():
        torch._assert_async(~outside.any(), rule)
    elif outside.any():
        raise InputError(f"{rule}, was {labels[outside][0].item()}")


def _fake(hidden: torch.Tensor, head: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    problem = Problem(*rest)
    return (
        hidden.new_empty((), dtype=torch.promote_types(hidden.dtype, torch.float32)),
        torch.empty_like(hidden) if problem.needs_hidden else hidden.new_empty(0),
        torch.empty_like(head) if problem.needs_head else hidden.new_empty(0),
    )


class _LinearCrossEntropy(torch.autograd.Function):
    """Makes the gradients in forward, where the logits are, and scales them in backward."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[torch.Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            loss, dhidden, dhead = _linear_cross_entropy(*arguments)
        ctx.save_for_backward(dhidden, dhead)
        ctx.mark_non_differentiable(dhidden, dhead)
        return loss, dhidden, dhead

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dloss: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
        dhidden, dhead = ((d * dloss).to(d.dtype) if need else None for d, need in wanted)
        return dhidden, dhead, None, None, None, None


_linear_cross_entropy: Callable[..., tuple[torch.Tensor, ...]] = define(
    "linear_cross_entropy(Tensor hidden, Tensor head, Tensor labels, float label_smoothing, "
    "bool needs_hidden, bool needs_head) -> (Tensor loss, Tensor dhidden, Tensor dhead)",
    _run,
    _fake,
    _LinearCrossEntropy.apply,
)
