"""How far a quantized weight is from the original."""

import torch

from qlora_kernels.errors import InputError
from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.ops.dequantize import dequantize


def quantization_error(w: torch.Tensor, q: QuantizedTensor) -> float:
    """`|w - dequantize(q)| / |w|` (Frobenius norms): 0 for a perfect copy, and for zeros.

    w: the original, of q's shape, any float dtype. Sums are float64, row by row, so that no float64
    copy of w is made. Raises InputError for shapes or devices that do not agree.
    """
    if tuple(w.shape) != tuple(q.shape) or w.device != q.device:
        raise InputError(
            f"quantization_error: w should be {list(q.shape)} on {q.device}, "
            f"was {list(w.shape)} on {w.device}"
        )
    w = w.detach().float()
    error = (w - dequantize(q, torch.float32)).square_().sum(dim=-1, dtype=torch.float64).sum()
    energy = w.square().sum(dim=-1, dtype=torch.float64).sum()
    return float((error / energy).sqrt()) if energy > 0 else 0.0
