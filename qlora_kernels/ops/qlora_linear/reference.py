"""`qlora_linear` and its gradients in plain torch, for any float dtype: the formula, line by line.

The base weight is decoded in each direction and dropped again; nothing dense is kept for backward.
"""

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.ops.dequantize import dequantize
from qlora_kernels.ops.dropout_mask import dropout_mask
from qlora_kernels.ops.qlora_linear.call import Gradients, Needs

BACKEND = "reference"


def refuses(
    x: torch.Tensor, base: Base, adapter: Adapter | None, seed: torch.Tensor | None
) -> str | None:
    """Runs everything."""
    return None


def forward(
    x: torch.Tensor,  # [m, k]
    base: Base,  # [n, k]
    adapter: Adapter | None,
    bias: torch.Tensor | None,  # [n]
    seed: torch.Tensor | None,
    output_scale: torch.Tensor | None = None,  # [n]
) -> torch.Tensor:
    """`y = g * (x W^T + s (drop(x A^T)) B^T) + bias`, [m, n], with g the output scale or 1."""
    bias = None if bias is None else bias.to(x.dtype)
    y = torch.nn.functional.linear(x, _dense(base, x.dtype), bias if output_scale is None else None)
    if adapter is not None:
        h = _down(x, adapter, *_masks(x, adapter, seed))
        y = y + adapter.scaling * (h @ adapter.b.to(x.dtype).T)
    if output_scale is None:
        return y
    y = (y * output_scale).to(x.dtype)
    return y if bias is None else y + bias


def backward(
    dy: torch.Tensor,  # [m, n]
    x: torch.Tensor,  # [m, k]
    base: Base,
    adapter: Adapter | None,
    seed: torch.Tensor | None,
    needs: Needs,
) -> Gradients:
    """`dx = dy W + dh A`, `da = dh^T x`, `db = s dy^T h`, `dbias = sum dy`, with `dh = s dy B`."""
    dx = dy @ _dense(base, dy.dtype) if needs.x else None
    da = db = None
    if adapter is not None:
        on_input, on_rank = _masks(x, adapter, seed)
        dh = _masked(adapter.scaling * (dy @ adapter.b.to(dy.dtype)), on_rank)  # [m, rank]
        if dx is not None:
            dx = dx + _masked(dh @ adapter.a.to(dy.dtype), on_input)
        if needs.a:
            da = (dh.T @ _masked(x, on_input)).to(adapter.a.dtype)
        if needs.b:
            h = _down(x, adapter, on_input, on_rank)
            db = (adapter.scaling * (dy.T @ h)).to(adapter.b.dtype)
    return Gradients(dx, da, db, dy.sum(dim=0) if needs.bias else None)


def _dense(base: Base, dtype: torch.dtype) -> torch.Tensor:
    return dequantize(base, dtype) if isinstance(base, QuantizedTensor) else base.to(dtype)


def _masks(
    x: torch.Tensor, adapter: Adapter, seed: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The scaled dropout masks (over x [m, k], over h [m, rank]); None where nothing drops."""
    if seed is None:
        return None, None
    if adapter.dropout_on == "input":
        return dropout_mask(seed, x.shape, adapter.dropout).to(x.dtype), None
    return None, dropout_mask(seed, (x.shape[0], adapter.rank), adapter.dropout).to(x.dtype)


def _masked(tensor: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return tensor if mask is None else tensor * mask


def _down(
    x: torch.Tensor,
    adapter: Adapter,
    on_input: torch.Tensor | None,
    on_rank: torch.Tensor | None,
) -> torch.Tensor:
    """h: `x A^T` with dropout where it falls, [m, rank]."""
    return _masked(_masked(x, on_input) @ adapter.a.to(x.dtype).T, on_rank)
