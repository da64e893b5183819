"""AdamW on NVIDIA GPUs: one CUDA launch for all segments, whatever their dtypes; nobody waits."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import torch

from qlora_kernels.formats.blockwise8 import num_blocks
from qlora_kernels.formats.codebooks import dynamic_map
from qlora_kernels.gpu import cuda_module
from qlora_kernels.ops.adamw.segment import PARAMETER_DTYPES, Gate, Hyperparameters, Segment
from qlora_kernels.ops.adamw.triton_kernel import rounded_thresholds
from qlora_kernels.ops.adamw.triton_table import addresses, on_device

BACKEND = "cuda"


def refuses(*arguments: Sequence[torch.Tensor]) -> str | None:
    """Takes everything on an NVIDIA GPU; the last argument is the list of gradients."""
    gradients = arguments[-1]
    return cuda_module.misplaced("a gradient", gradients[0]) if gradients else None


def adamw_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """The formula of op.py, for all segments at once."""
    device = segments[0].device
    blocks = [num_blocks(segment.parameter.numel()) for segment in segments]
    starts = accumulate(blocks, initial=0)
    work = zip(segments, gradients, starts, strict=False)  # the last start is the end of all
    rows = [
        (*addresses(segment, gradient), segment.parameter.numel(), start, _types(segment, gradient))
        for segment, gradient, start in work
    ]
    tables = (
        on_device(rows, torch.int64, device),
        on_device([tuple(h) for h in hyper], torch.float64, device),
        _codes(device),
    )
    with cuda_module.stream_of(gate.scale) as stream:
        cuda_module.kernels().adamw_step(
            [table.data_ptr() for table in tables],
            len(rows),
            sum(blocks),
            [gate.scale.data_ptr(), gate.skip.data_ptr()],
            stream,
        )


def _types(segment: Segment, gradient: torch.Tensor) -> int:
    """The dtypes as csrc/common/element.h numbers them, eight bits each."""
    parameter, other = map(PARAMETER_DTYPES.index, (segment.parameter.dtype, gradient.dtype))
    return parameter | other << 8


@cache
def _codes(device: torch.device) -> torch.Tensor:
    """What the codes of 8-bit states mean: map and thresholds of exp_avg, then of exp_avg_sq."""
    beyond = torch.full((1,), torch.inf, device=device)
    parts = [
        torch.cat([dynamic_map(device, signed), rounded_thresholds(device, signed), beyond])
        for signed in (True, False)
    ]
    return torch.cat(parts)
