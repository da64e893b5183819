"""`dora_column_norm` in plain torch: the formula in float64, a few rows of W at a time."""

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.ops.dequantize import dequantize

BACKEND = "reference"

_ROWS = 256  # in float64 at once


def refuses(base: Base, adapter: Adapter) -> str | None:
    """Runs everything."""
    return None


def column_norm(base: Base, adapter: Adapter) -> torch.Tensor:
    """`sqrt(|W_n|^2 + 2 s <W_n A^T, B_n> + s^2 <B_n A A^T, B_n>)`, [n]."""
    w = dequantize(base, torch.float32) if isinstance(base, QuantizedTensor) else base
    a, b = adapter.a.double(), adapter.scaling * adapter.b.double()
    gram = a @ a.T  # [rank, rank]
    parts = [
        _squares(rows.double(), a, b_rows, gram)
        for rows, b_rows in zip(w.split(_ROWS), b.split(_ROWS), strict=True)
    ]
    norm = torch.cat(parts).clamp(min=0).sqrt()
    return norm.to(torch.promote_types(adapter.a.dtype, torch.float32))


def _squares(
    w: torch.Tensor,  # [rows, k]
    a: torch.Tensor,
    b: torch.Tensor,  # [rows, rank], scaled
    gram: torch.Tensor,
) -> torch.Tensor:
    return w.square().sum(dim=1) + ((2 * (w @ a.T) + b @ gram) * b).sum(dim=1)
