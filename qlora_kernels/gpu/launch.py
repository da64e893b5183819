"""Arguments that many kernels take, and the launch itself."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import FORMATS, dynamic_map

# Triton's types of what `scale_arguments` gives.
PLAIN_TYPES = dict.fromkeys(("scales", "nested_absmax", "nested_offset", "dynamic"), "*fp32")
NESTED_TYPES = PLAIN_TYPES | {"scales": "*u8"}
TRITON_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def scale_arguments(q: QuantizedTensor) -> tuple[torch.Tensor, ...]:
    """(scales, nested_absmax, nested_offset, dynamic map); scales stand in for what is absent."""
    if q.nested_absmax is None or q.nested_offset is None:
        return (q.scales,) * 4
    return q.scales, q.nested_absmax, q.nested_offset, dynamic_map(q.device)


def code_bits(q: QuantizedTensor) -> int:
    """Bits per code: 4 or 8."""
    return FORMATS[q.format].bits


def launch(
    kernel: Any, grid: Sequence[int], device: torch.device, *arguments: Any, **named: Any
) -> None:
    """Run a kernel on the device of its tensors; a grid without programs is no launch."""
    if all(grid):
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[tuple(grid)](*arguments, **named)
