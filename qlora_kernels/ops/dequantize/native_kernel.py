"""Dequantization by the native CPU kernels."""

import torch

from qlora_kernels import native
from qlora_kernels.formats import QuantizedTensor

BACKEND = "cpu"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuses(q: QuantizedTensor, out: torch.Tensor) -> str | None:
    """Writes float32, bfloat16 and float16 on the CPU."""
    if out.device.type != "cpu":
        return f"out is on {out.device}"
    return None if out.dtype in _DTYPES else f"out is {out.dtype}"


def dequantize(q: QuantizedTensor, out: torch.Tensor) -> None:
    """`out = codebook[code] * absmax`, one float32 product and one rounding to out's dtype."""
    native.cpu().dequantize(native.weight(q), out, torch.get_num_threads())
