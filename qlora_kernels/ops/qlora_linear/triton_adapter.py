"""The adapter's skinny products on the GPU: h, dh, da and db, each summed in a fixed order."""

import torch

from qlora_kernels.formats import Adapter
from qlora_kernels.gpu.launch import dropout_arguments, launch
from qlora_kernels.gpu.shares import rank_tile, splits

SUM_BLOCK = 1024
_NO_DROPOUT = (False, 0, 0.0)
Masking = tuple[bool, int, float]  # whether it drops, floor(p 2^32), 1 / (1 - p)


def masking(adapter: Adapter | None, seed: torch.Tensor | None, place: str) -> Masking:
    """What kernels need to drop at `place`: "rank" or "input"."""
    if adapter is None or seed is None or adapter.dropout_on != place:
        return _NO_DROPOUT
    return (True, *dropout_arguments(adapter.dropout))


def down(x: torch.Tensor, adapter: Adapter, seed: torch.Tensor | None) -> torch.Tensor:
    """`h = s drop(x A^T)` or `s drop(x) A^T`, float32 [m, rank]."""
    partial = _rows(x, adapter.a.detach(), masking(adapter, seed, "input"), seed)
    h = torch.empty_like(partial[0])
    return _sum(partial, h, adapter.scaling, masking(adapter, seed, "rank"), seed)


def down_gradient(dy: torch.Tensor, adapter: Adapter, seed: torch.Tensor | None) -> torch.Tensor:
    """`dh = s dy B`, dropped where h was, float32 [m, rank]."""
    partial = _rows(dy, adapter.b.detach().T, _NO_DROPOUT, None)
    dh = torch.empty_like(partial[0])
    return _sum(partial, dh, adapter.scaling, masking(adapter, seed, "rank"), seed)


def a_gradient(
    dh: torch.Tensor, x: torch.Tensor, adapter: Adapter, seed: torch.Tensor | None
) -> torch.Tensor:
    """`da = dh^T drop(x)`, of a's dtype."""
    partial = _columns(dh, x, masking(adapter, seed, "input"), seed)
    da = torch.empty_like(adapter.a, memory_format=torch.contiguous_format)
    return _sum(partial, da, 1.0, _NO_DROPOUT, None)


def b_gradient(h: torch.Tensor, dy: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    """`db = dy^T h`, h scaled already, of b's dtype."""
    partial = _columns(h, dy, _NO_DROPOUT, None)
    db = torch.empty_like(adapter.b, memory_format=torch.contiguous_format)
    _sum(partial, db.T, 1.0, _NO_DROPOUT, None)
    return db


def tile(item_bytes: int) -> int:
    """Rows and columns that a program multiplies at a time; fewer where no matrix unit helps."""
    return 64 if item_bytes == 2 else 32


def rows_at_once(m: int, item_bytes: int) -> int:
    """Rows of x that a program multiplies with A: with 32 float32 ones its registers spill."""
    return 16 if m <= 16 or item_bytes > 2 else tile(item_bytes)


def _rows(
    x: torch.Tensor, factor: torch.Tensor, masking: Masking, seed: torch.Tensor | None
) -> torch.Tensor:
    """Shares of `drop(x) factor^T`, float32 [splits, m, rank]; factor [rank, k], any strides."""
    from qlora_kernels.ops.qlora_linear.adapter_device import rows_kernel

    (m, k), rank = x.shape, factor.shape[0]
    step, ranks = tile(x.itemsize), rank_tile(rank)
    block_m = rows_at_once(m, x.itemsize)
    shares = splits(-(-m // block_m) * -(-rank // ranks), k, step)
    partial = x.new_empty(shares, m, rank, dtype=torch.float32)
    masked, threshold, keep = masking
    launch(
        rows_kernel,
        (-(-m // block_m), -(-rank // ranks), shares),
        x.device,
        *(x, factor, x if seed is None else seed, partial, m, k, rank, *factor.stride()),
        *(threshold, keep),
        MASKED=masked,
        BLOCK_M=block_m,
        RANK=ranks,
        STEP=step,
        SPLITS=shares,
        enable_fp_fusion=True,
    )
    return partial


def _columns(
    h: torch.Tensor, x: torch.Tensor, masking: Masking, seed: torch.Tensor | None
) -> torch.Tensor:
    """Shares of `h^T drop(x)`, float32 [splits, rank, k]."""
    from qlora_kernels.ops.qlora_linear.adapter_device import columns_kernel

    (m, k), rank = x.shape, h.shape[1]
    step, ranks = tile(x.itemsize), rank_tile(rank)
    shares = splits(-(-k // step) * -(-rank // ranks), m, step)
    partial = x.new_empty(shares, rank, k, dtype=torch.float32)
    masked, threshold, keep = masking
    launch(
        columns_kernel,
        (-(-rank // ranks), -(-k // step), shares),
        x.device,
        *(h, x, x if seed is None else seed, partial, m, k, rank, threshold, keep),
        MASKED=masked,
        BLOCK_K=step,
        RANK=ranks,
        STEP=step,
        SPLITS=shares,
        enable_fp_fusion=True,
    )
    return partial


def _sum(
    partial: torch.Tensor,
    out: torch.Tensor,
    scaling: float,
    masking: Masking,
    seed: torch.Tensor | None,
) -> torch.Tensor:
    """out [rows, columns] = scaling * drop(the shares, added in order)."""
    from qlora_kernels.ops.qlora_linear.adapter_device import sum_shares_kernel

    masked, threshold, keep = masking
    count = out.numel()
    launch(
        sum_shares_kernel,
        (-(-count // SUM_BLOCK),),
        out.device,
        *(partial, partial if seed is None else seed, out, count, out.shape[1], *out.stride()),
        *(scaling, threshold, keep),
        MASKED=masked,
        SPLITS=partial.shape[0],
        BLOCK=SUM_BLOCK,
        enable_fp_fusion=True,
    )
    return out
