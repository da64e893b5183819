"""The products with W for many rows of x: W decoded once into memory, then cuBLAS.

The adapter's product is folded into the large one where what that copies is less than a second sum
of the output's size would move:

    y  = [x | h] [W | B]^T        x is copied beside h
    dx = [dy | dh] [W ; A]        dy is copied beside dh

and is what the large product is added to elsewhere. W takes 2 n (k + rank) bytes, one layer's at a
time: torch's allocator gives the same memory to the next layer, and memory of a graph's own while a
CUDA graph is captured.
"""

import torch

from qlora_kernels.formats import Adapter, QuantizedTensor
from qlora_kernels.ops.dequantize import triton_kernel as decoding

_COLUMNS = 8  # of 16 bits: what cuBLAS reads at once

Down = tuple[Adapter | None, torch.Tensor | None]  # an adapter and its h, or dh


def forward(
    x: torch.Tensor,  # [m, k]
    base: QuantizedTensor,  # [n, k]
    down: Down,  # h [m, rank], scaled and dropped
    epilogue: tuple[torch.Tensor | None, torch.Tensor | None],  # bias [n], output scale [n]
    folds: bool,
) -> torch.Tensor:
    """`y = g * (x W^T + h B^T) + bias`, [m, n]."""
    adapter, h = down
    if adapter is None or h is None:
        y = x @ _decoded(base, x.dtype).T
    elif folds:
        extra = -(-adapter.rank // _COLUMNS) * _COLUMNS
        w = _decoded(base, x.dtype, columns=extra)
        y = _beside(x, h, extra) @ _filled(w, adapter.b, base.shape[1]).T
    else:
        y = h.to(x.dtype) @ adapter.b.to(x.dtype).T
        torch.addmm(y, x, _decoded(base, x.dtype).T, out=y)
    bias, scale = epilogue
    if scale is not None:
        y = (y * scale).to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)


def x_gradient(
    dy: torch.Tensor,  # [m, n]
    base: QuantizedTensor,  # [n, k]
    down: Down,  # dh [m, rank], scaled and dropped
    folds: bool,
) -> torch.Tensor:
    """`dx = dy W + dh A`, [m, k]."""
    adapter, dh = down
    if adapter is None or dh is None:
        return dy @ _decoded(base, dy.dtype)
    if folds:
        extra = -(-adapter.rank // _COLUMNS) * _COLUMNS
        w = _decoded(base, dy.dtype, rows=extra)
        return _beside(dy, dh, extra) @ _filled(w.T, adapter.a.T, base.shape[0]).T
    dx = dh.to(dy.dtype) @ adapter.a.to(dy.dtype)
    return torch.addmm(dx, dy, _decoded(base, dy.dtype), out=dx)


def can_fold(base: QuantizedTensor) -> bool:
    """Whether W can be decoded with room between its rows, and starts each at a wide address."""
    return base.shape[1] % decoding.ROW == 0 and base.block_size % decoding.ROW == 0


def _decoded(
    base: QuantizedTensor, dtype: torch.dtype, rows: int = 0, columns: int = 0
) -> torch.Tensor:
    """W [n + rows, k + columns], of which what is no weight is not written."""
    n, k = base.shape
    w = torch.empty(n + rows, k + columns, dtype=dtype, device=base.device)
    decoding.dequantize(base, w[:n, :k])
    return w


def _beside(rows: torch.Tensor, low: torch.Tensor, extra: int) -> torch.Tensor:
    """[rows | low | 0], [m, width + extra]."""
    m, width = rows.shape
    wide = rows.new_empty(m, width + extra)
    wide[:, :width] = rows
    return _filled(wide, low, width)


def _filled(wide: torch.Tensor, low: torch.Tensor, width: int) -> torch.Tensor:
    """`wide` with `low` behind its first `width` columns, and zeros behind that."""
    end = width + low.shape[1]
    wide[:, width:end] = low
    wide[:, end:] = 0
    return wide
