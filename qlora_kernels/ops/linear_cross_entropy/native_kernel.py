"""Loss head by the native CPU kernel: logits exist only as a panel of them in the L1 cache."""

import torch

from qlora_kernels import native
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE, Problem

BACKEND = "cpu"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuses(hidden: torch.Tensor, head: torch.Tensor, problem: Problem) -> str | None:
    """Takes float32, bfloat16 and float16 on the CPU; the head is frozen."""
    if hidden.device.type != "cpu":
        return f"hidden is on {hidden.device}"
    for name, tensor in (("hidden", hidden), ("head", head)):
        if tensor.dtype not in _DTYPES:
            return f"{name} is {tensor.dtype}"
    return "the head wants a gradient" if problem.needs_head else None


def linear_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, problem: Problem
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(summed loss, its gradient by hidden, None): rows without a label are left out."""
    labels, rows = problem.labels, hidden
    labelled = (labels != IGNORE).nonzero().view(-1)
    is_whole = len(labelled) == len(labels)
    if not is_whole:
        labels, rows = labels[labelled], hidden[labelled]
    loss = hidden.new_empty((), dtype=torch.float32)
    drows = None
    if problem.needs_hidden:
        drows = torch.empty_like(rows, memory_format=torch.contiguous_format)
    native.cpu().linear_cross_entropy(
        rows.contiguous(),
        head.detach().contiguous(),
        labels.contiguous(),
        problem.label_smoothing,
        (loss, drows),
        torch.get_num_threads(),
    )
    if drows is None or is_whole:
        return loss, drows, None
    return loss, torch.zeros_like(hidden).index_copy_(0, labelled, drows), None
