"""Device code of the adapter's skinny products; importing it imports triton.

Each is summed in shares, one after another within a program, and the shares are added in order by
a second kernel: no atomics, so the same bits every time.
"""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import rounded
from qlora_kernels.gpu.philox_device import kept
from qlora_kernels.gpu.weight_device import product


@triton.jit
def rows_kernel(
    x, factor, seed, partial, m, k, rank, stride_r, stride_k, threshold, keep,
    MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, RANK: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """partial[split] = drop(x) F^T over a share of k: x A^T, or dy B with F = B^T."""
    split = tl.program_id(2)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    r = tl.program_id(1) * RANK + tl.arange(0, RANK)
    from_row = tl.minimum(row, m - 1).to(tl.int64)
    steps = tl.cdiv(k, STEP)
    share = tl.cdiv(steps, SPLITS)
    dtype: tl.constexpr = x.dtype.element_ty
    total = tl.zeros((BLOCK_M, RANK), tl.float32)
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        column = step * STEP + tl.arange(0, STEP)
        tile = tl.load(
            x + from_row[:, None] * k + column[None, :], mask=column[None, :] < k, other=0.0
        )
        if MASKED:
            mask = kept(from_row[:, None] * k + column[None, :], seed, threshold, keep)
            tile = rounded(tile.to(tl.float32) * mask, dtype)
        ft = tl.load(
            factor + r[None, :] * stride_r + column[:, None].to(tl.int64) * stride_k,
            mask=(r[None, :] < rank) & (column[:, None] < k),
            other=0.0,
        )
        total = product(tile, rounded(ft, dtype), total)
    place = partial + (split * m + from_row[:, None]) * rank + r[None, :]
    tl.store(place, total, mask=(row[:, None] < m) & (r[None, :] < rank))


@triton.jit
def columns_kernel(
    h, x, seed, partial, m, k, rank, threshold, keep,
    MASKED: tl.constexpr,
    BLOCK_K: tl.constexpr, RANK: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """partial[split] = h^T drop(x) over a share of the rows: dh^T x, or h^T dy."""
    split = tl.program_id(2)
    r = tl.program_id(0) * RANK + tl.arange(0, RANK)
    column = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    steps = tl.cdiv(m, STEP)
    share = tl.cdiv(steps, SPLITS)
    dtype: tl.constexpr = x.dtype.element_ty
    total = tl.zeros((RANK, BLOCK_K), tl.float32)
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        row = (step * STEP + tl.arange(0, STEP)).to(tl.int64)
        place = row[:, None] * k + column[None, :]
        tile = tl.load(x + place, mask=(row[:, None] < m) & (column[None, :] < k), other=0.0)
        if MASKED:
            tile = rounded(tile.to(tl.float32) * kept(place, seed, threshold, keep), dtype)
        ht = tl.load(
            h + row[None, :] * rank + r[:, None],
            mask=(row[None, :] < m) & (r[:, None] < rank),
            other=0.0,
        )
        total = product(rounded(ht, dtype), tile, total)
    place = partial + (split * rank + r[:, None]).to(tl.int64) * k + column[None, :]
    tl.store(place, total, mask=(r[:, None] < rank) & (column[None, :] < k))


@triton.jit
def sum_shares_kernel(
    partial, seed, out, count, columns, row_stride, column_stride, scaling, threshold, keep,
    MASKED: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = scaling * drop(the shares of a matrix [., columns], added in order)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(SPLITS):
        total += tl.load(partial + tl.cast(count, tl.int64) * split + i, mask=i < count, other=0.0)
    total *= scaling
    if MASKED:
        total *= kept(i, seed, threshold, keep)
    place = out + i // columns * row_stride + i % columns * column_stride
    tl.store(place, rounded(total, out.dtype.element_ty), mask=i < count)
