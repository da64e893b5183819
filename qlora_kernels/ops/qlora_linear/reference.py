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
) -> torch.Tensor:
    """`y = x W^T + s (drop(x A^T)) B^T + bias`, [m, n]."""
    y = torch.nn.functional.linear(
        x, _dense(base, x.dtype), None if bias is None else bias.to(x.dtype)
    )
    if adapter is None:
        return y
    _, h = _down(x, adapter, _mask(x, adapter, seed))
    return y + adapter.scaling * (h @ adapter.b.to(x.dtype).T)


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
        mask = _mask(x, adapter, seed)
        dropped, h = _down(x, adapter, mask)
        dh = adapter.scaling * (dy @ adapter.b.to(dy.dtype))  # [m, rank]
        if mask is not None and adapter.dropout_on == "rank":
            dh = dh * mask
        if dx is not None:
            through = dh @ adapter.a.to(dy.dtype)
            dx = dx + (through * mask if _drops_input(adapter, mask) else through)
        da = (dh.T @ dropped).to(adapter.a.dtype) if needs.a else None
        db = (adapter.scaling * (dy.T @ h)).to(adapter.b.dtype) if needs.b else None
    return Gradients(dx, da, db, dy.sum(dim=0) if needs.bias else None)


def _dense(base: Base, dtype: torch.dtype) -> torch.Tensor:
    return dequantize(base, dtype) if isinstance(base, QuantizedTensor) else base.to(dtype)


def _mask(x: torch.Tensor, adapter: Adapter, seed: torch.Tensor | None) -> torch.Tensor | None:
    """The scaled dropout mask over [m, rank] or [m, k]; None without dropout."""
    if seed is None:
        return None
    width = adapter.rank if adapter.dropout_on == "rank" else x.shape[1]
    return dropout_mask(seed, (x.shape[0], width), adapter.dropout).to(x.dtype)


def _drops_input(adapter: Adapter, mask: torch.Tensor | None) -> bool:
    return mask is not None and adapter.dropout_on == "input"


def _down(
    x: torch.Tensor, adapter: Adapter, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the input of A, the input of B): x and x A^T with dropout where it falls."""
    dropped = x * mask if _drops_input(adapter, mask) else x
    h = dropped @ adapter.a.to(x.dtype).T  # [m, rank]
    return dropped, h * mask if mask is not None and adapter.dropout_on == "rank" else h
