"""Dequantization in plain torch, for any float dtype."""

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import FORMATS, INT8_MAX

BACKEND = "reference"


def refuses(q: QuantizedTensor, out: torch.Tensor) -> str | None:
    """Runs everything."""
    return None


def dequantize(q: QuantizedTensor, out: torch.Tensor) -> None:
    """`out = codebook[code] * absmax`, one float32 product and one rounding to out's dtype."""
    out.copy_(values(q).view(out.shape))


def values(q: QuantizedTensor) -> torch.Tensor:
    """The weight in float32, flat."""
    count = q.numel()
    if FORMATS[q.format].codebook:
        nibbles = torch.cat([q.codes >> 4, q.codes & 15], dim=1).view(-1)
        unscaled, scales = q.code_values[nibbles.long()], q.absmax
    else:
        unscaled, scales = q.codes.view(torch.int8).view(-1).float(), q.absmax / INT8_MAX
    per_value = scales.repeat_interleave(q.block_size)[:count]
    return unscaled[:count] * per_value
