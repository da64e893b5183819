"""Loss head on NVIDIA GPUs, a chunk of rows at a time: cuBLAS makes the logits, one Triton kernel
their loss and, in place, their gradient, and cuBLAS that of hidden. Two products; kernels that
never write logits make them twice.
"""

from collections.abc import Iterator

import torch

from qlora_kernels.gpu.availability import capturing, misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import TRITON_TYPES, launch
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE, Problem

BACKEND = "triton"

_CHUNK_BYTES = 256 * 2**20  # of logits: about a thousand rows of the largest vocabularies
_BLOCK = 4096  # logits of a row that a program holds
_NUM_WARPS = 8


def refuses(hidden: torch.Tensor, head: torch.Tensor, problem: Problem) -> str | None:
    """Takes float32, bfloat16 and float16 on an NVIDIA GPU."""
    if hidden.dtype not in TRITON_TYPES:
        return f"hidden is {hidden.dtype}"
    return misplaced("hidden", hidden)


def linear_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, problem: Problem
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(summed loss, its gradient by hidden, by head): all from a chunk's logits."""
    rows = _rows(problem.labels)
    x, labels = (hidden, problem.labels) if rows is None else (hidden[rows], problem.labels[rows])
    head_dtype, head = head.dtype, head.to(hidden.dtype)
    losses = hidden.new_empty(len(x), dtype=torch.float32)
    dx = torch.empty_like(x) if problem.needs_hidden else None
    dhead = torch.zeros_like(head, dtype=torch.float32) if problem.needs_head else None
    for part in _chunks(len(x), head):
        logits = x[part] @ head.T
        _loss(logits, labels[part], losses[part], problem)
        if dx is not None:
            torch.mm(logits, head, out=dx[part])
        if dhead is not None:
            dhead += logits.T @ x[part]
    dhidden = dx
    if dx is not None and rows is not None:
        dhidden = torch.zeros_like(hidden).index_copy_(0, rows, dx)
    return losses.sum(), dhidden, None if dhead is None else dhead.to(head_dtype)


def _rows(labels: torch.Tensor) -> torch.Tensor | None:
    """The labelled rows, so that others cost nothing; None for all, where asking is forbidden."""
    return None if capturing() else (labels != IGNORE).nonzero().view(-1)


def _chunks(num_rows: int, head: torch.Tensor) -> Iterator[slice]:
    """As few chunks as the bytes allow, of about the same size."""
    rows_at_most = max(1, _CHUNK_BYTES // (head.shape[0] * head.itemsize))
    count = -(-num_rows // rows_at_most)
    size = -(-num_rows // max(1, count))
    for first in range(0, num_rows, max(1, size)):
        yield slice(first, first + size)


def _loss(
    logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor, problem: Problem
) -> None:
    """losses = the loss of each row; where gradients are wanted, logits become theirs."""
    from qlora_kernels.ops.linear_cross_entropy.triton_device import loss_kernel

    launch(
        loss_kernel,
        (logits.shape[0],),
        logits.device,
        *(logits, labels, losses, logits.shape[1], problem.label_smoothing),
        SMOOTHED=problem.label_smoothing > 0,
        GRADIENT=problem.needs_hidden or problem.needs_head,
        BLOCK=_BLOCK,
        num_warps=_NUM_WARPS,
    )


def compile_cases() -> Iterator[CompileCase]:
    """Every dtype with its gradient, smoothed or not; the loss alone."""
    from qlora_kernels.ops.linear_cross_entropy.triton_device import loss_kernel

    variants = [(name, smoothed, True) for name in TRITON_TYPES.values() for smoothed in (0, 1)]
    for name, smoothed, gradient in [*variants, ("bf16", 0, False)]:
        constants = {"SMOOTHED": bool(smoothed), "GRADIENT": gradient, "BLOCK": _BLOCK}
        signature = {
            **{"logits": f"*{name}", "labels": "*i64", "losses": "*fp32"},
            **{"v": "i32", "label_smoothing": "fp32"},
        }
        said = [f"{key.lower()}={int(value)}" for key, value in constants.items()]
        yield CompileCase(
            "linear_cross_entropy",
            " ".join([name, *said]),
            loss_kernel,
            signature | dict.fromkeys(constants, "constexpr"),
            constants,
            num_warps=_NUM_WARPS,
            aligned=("logits", "labels", "losses", "v"),
        )
