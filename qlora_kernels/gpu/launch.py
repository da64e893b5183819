"""Arguments that many kernels take, and the launch itself."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import FORMATS, dynamic_map
from qlora_kernels.gpu.table import table

# Triton's types of what `scale_arguments` gives.
PLAIN_TYPES = dict.fromkeys(("scales", "nested_absmax", "nested_offset", "dynamic"), "*fp32")
NESTED_TYPES = PLAIN_TYPES | {"scales": "*u8"}
COLUMNS = 64  # of a weight tile: what shares a scale at the usual block size
TRITON_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def scale_arguments(q: QuantizedTensor) -> tuple[torch.Tensor, ...]:
    """(scales, nested_absmax, nested_offset, dynamic map); scales stand in for what is absent."""
    if q.nested_absmax is None or q.nested_offset is None:
        return (q.scales,) * 4
    return q.scales, q.nested_absmax, q.nested_offset, dynamic_map(q.device)


def base_arguments(q: QuantizedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """What kernels read of a weight that they decode to `dtype`, in their order."""
    return q.codes, *scale_arguments(q), table(q.format, dtype, q.device)


def base_types(nested: bool) -> dict[str, str]:
    """Triton's types of `base_arguments`."""
    return {"codes": "*u8", **(NESTED_TYPES if nested else PLAIN_TYPES), "table": "*i32"}


def base_constants(q: QuantizedTensor) -> dict[str, int]:
    """The constants of kernels that read a weight, but how it lies in rows."""
    return {"NESTED": q.double_quant, "BITS": code_bits(q), "BLOCK_SIZE": q.block_size}


def dropout_arguments(p: float) -> tuple[int, float]:
    """(threshold, scale): a value is kept where its word is at least the threshold."""
    return int(p * 2**32), float(1.0 / (1.0 - torch.tensor(p, dtype=torch.float32)))


def is_aligned(k: int, block_size: int) -> bool:
    """Whether COLUMNS columns of a row share a scale and start at a whole byte."""
    return k % COLUMNS == 0 and block_size >= COLUMNS


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
