"""Loss head in plain torch, a chunk of rows at a time."""

from collections.abc import Iterator

import torch

from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE, Problem

BACKEND = "reference"

_CHUNK_BYTES = 64 * 2**20  # one chunk of float32 logits


def refuses(hidden: torch.Tensor, head: torch.Tensor, problem: Problem) -> str | None:
    """Runs everything."""
    return None


def linear_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, problem: Problem
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(summed loss, its gradient by hidden, by head): all from a chunk's logits."""
    loss = torch.zeros((), dtype=_accumulator(hidden), device=hidden.device)
    dhidden = torch.zeros_like(hidden) if problem.needs_hidden else None
    dhead = torch.zeros_like(head, dtype=loss.dtype) if problem.needs_head else None
    smoothing = problem.label_smoothing
    for rows, logits, labels in _chunks(hidden, head, problem):
        loss += torch.nn.functional.cross_entropy(
            logits, labels, label_smoothing=smoothing, reduction="sum"
        )
        if dhidden is None and dhead is None:
            continue
        dlogits = torch.softmax(logits, dim=1, out=logits).sub_(smoothing / head.shape[0])
        dlogits[torch.arange(len(labels), device=labels.device), labels] -= 1.0 - smoothing
        dlogits = dlogits.to(hidden.dtype)
        if dhidden is not None:
            dhidden[rows] = dlogits @ head.to(hidden.dtype)
        if dhead is not None:
            dhead += dlogits.T @ hidden[rows]
    return loss, dhidden, None if dhead is None else dhead.to(head.dtype)


def _accumulator(hidden: torch.Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _chunks(
    hidden: torch.Tensor, head: torch.Tensor, problem: Problem
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(row indices, their logits, their labels) of the labelled rows, a chunk at a time."""
    labelled = (problem.labels != IGNORE).nonzero().view(-1)
    accumulator = _accumulator(hidden)
    rows_per_chunk = max(1, _CHUNK_BYTES // (head.shape[0] * accumulator.itemsize))
    head = head.to(hidden.dtype)
    for rows in labelled.split(rows_per_chunk):
        yield rows, (hidden[rows] @ head.T).to(accumulator), problem.labels[rows]
