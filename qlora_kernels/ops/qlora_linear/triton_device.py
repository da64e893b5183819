"""Device code of qlora_linear's two products with W; importing it imports triton.

Forward holds W as the left operand: decoded in registers, it goes to the matrix instruction from
there, and the tile that is accumulated is y transposed.
"""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import rounded
from qlora_kernels.gpu.philox_device import kept
from qlora_kernels.gpu.weight_device import STEP, aligned_tile, product, weight_tile

LOW_RANK_STEP = tl.constexpr(
    16
)  # of the adapter's product: what the matrix instruction sums at once


@triton.jit
def forward_kernel(
    x, codes, scales, nested_absmax, nested_offset, dynamic, table,
    h, b, bias, output_scale, out, m, n, k, rank,
    NESTED: tl.constexpr, BITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ALIGNED: tl.constexpr,
    HAS_ADAPTER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, SKINNY: tl.constexpr,
):  # fmt: skip
    """y = g * (x W^T + h B^T) + bias; with SPLITS > 1 the sums of each share of k, float32.

    h [m, rank] float32 is scaled and dropped already.
    """
    forward_tile(
        x, codes, scales, nested_absmax, nested_offset, dynamic, table,
        h, b, bias, output_scale, out, m, n, k, rank, tl.program_id(1),
        NESTED, BITS, BLOCK_SIZE, ALIGNED, HAS_ADAPTER, HAS_BIAS, HAS_SCALE,
        BLOCK_M, BLOCK_N, SPLITS, SKINNY,
    )  # fmt: skip


@triton.jit
def forward_group_kernel(
    x, codes, scales, nested_absmax, nested_offset, dynamic, table,
    h, b, bias, output_scale, out, m, n, k, rank,
    NESTED: tl.constexpr, BITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ALIGNED: tl.constexpr,
    HAS_ADAPTER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, SKINNY: tl.constexpr,
):  # fmt: skip
    """The same for layers that share x: tuples of what each has of its own, n and rank included.

    Tiles of the outputs are numbered through, so a program finds its layer by its number.
    """
    layer = 0
    tile = tl.program_id(1)
    start = 0
    for i in tl.static_range(1, len(codes)):
        start += tl.cdiv(n[i - 1], BLOCK_N)
        beyond = tl.program_id(1) >= start
        layer, tile = tl.where(beyond, i, layer), tl.where(beyond, tl.program_id(1) - start, tile)
    forward_tile(
        x, chosen(codes, layer), chosen(scales, layer), chosen(nested_absmax, layer),
        chosen(nested_offset, layer), dynamic, table, chosen(h, layer), chosen(b, layer),
        chosen(bias, layer), chosen(output_scale, layer), chosen(out, layer),
        m, chosen(n, layer), k, chosen(rank, layer), tile,
        NESTED, BITS, BLOCK_SIZE, ALIGNED, HAS_ADAPTER, HAS_BIAS, HAS_SCALE,
        BLOCK_M, BLOCK_N, SPLITS, SKINNY,
    )  # fmt: skip


@triton.jit
def chosen(members, layer):
    """The member of a tuple whose number is known when the kernel runs."""
    found = members[0]
    for i in tl.static_range(1, len(members)):
        found = tl.where(layer == i, members[i], found)
    return found


@triton.jit
def forward_tile(
    x, codes, scales, nested_absmax, nested_offset, dynamic, table,
    h, b, bias, output_scale, out, m, n, k, rank, tile,
    NESTED: tl.constexpr, BITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ALIGNED: tl.constexpr,
    HAS_ADAPTER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, SKINNY: tl.constexpr,
):  # fmt: skip
    """One tile of y, or of the sums of a share of k.

    SKINNY: scales multiply the sums of STEP columns, which costs less than multiplying weights
    while few rows share them, and is exact.
    """
    split = tl.program_id(2)
    row_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    from_m = tl.minimum(row_m, m - 1).to(tl.int64)  # rows beyond the last read it once more
    from_n = tl.minimum(row_n, n - 1)
    if ALIGNED:
        k = k // STEP * STEP  # the compiler learns that columns start at wide addresses
    steps = tl.cdiv(k, STEP)
    share = tl.cdiv(steps, SPLITS)
    dtype: tl.constexpr = x.dtype.element_ty
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        column = step * STEP + tl.arange(0, STEP)
        at = x + from_m[None, :] * k + column[:, None]
        xt = tl.load(at) if ALIGNED else tl.load(at, mask=column[:, None] < k, other=0.0)
        if SKINNY:
            w, scale = aligned_tile(
                codes, scales, nested_absmax, nested_offset, dynamic, table,
                from_n, step, k, dtype, NESTED, BITS, BLOCK_SIZE,
            )  # fmt: skip
            total += product(w, xt, tl.zeros_like(total)) * scale[:, None]
        else:
            w = weight_tile(
                codes, scales, nested_absmax, nested_offset, dynamic, table,
                from_n, step, k, dtype, NESTED, BITS, BLOCK_SIZE, ALIGNED,
            )  # fmt: skip
            total = product(w, xt, total)
    if HAS_ADAPTER and split == 0:
        total = _add_adapter(total, h, b, from_m, from_n, rank, dtype)
    if SPLITS == 1:
        total = _finished(total.trans(), bias, output_scale, from_n, HAS_BIAS, HAS_SCALE)
    else:
        total = total.trans()
        out += split.to(tl.int64) * m * n
    inside = (row_m[:, None] < m) & (row_n[None, :] < n)
    tl.store(
        out + from_m[:, None] * n + row_n[None, :],
        rounded(total, out.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def _add_adapter(total, h, b, row_m, row_n, rank, dtype: tl.constexpr):
    """The adapter's product as extra steps of the same accumulator."""
    for first in tl.range(0, rank, LOW_RANK_STEP, num_stages=1):
        r = first + tl.arange(0, LOW_RANK_STEP)
        bt = tl.load(b + row_n[:, None] * rank + r[None, :], mask=r[None, :] < rank, other=0.0)
        ht = tl.load(h + row_m[None, :] * rank + r[:, None], mask=r[:, None] < rank, other=0.0)
        total = product(rounded(bt, dtype), rounded(ht, dtype), total)
    return total


@triton.jit
def _finished(y, bias, output_scale, row_n, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr):
    if HAS_SCALE:
        y *= tl.load(output_scale + row_n).to(tl.float32)[None, :]
    if HAS_BIAS:
        y += tl.load(bias + row_n).to(tl.float32)[None, :]
    return y


@triton.jit
def sum_splits_kernel(
    partial, bias, output_scale, out, m, n,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = g * (the shares of k, added in order) + bias; one row and BLOCK columns a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((1, BLOCK), tl.float32)
    for split in tl.static_range(SPLITS):
        at = partial + (split * m + row) * n + column
        total += tl.load(at, mask=column < n, other=0.0)[None, :]
    from_n = tl.minimum(column, n - 1)
    y = _finished(total, bias, output_scale, from_n, HAS_BIAS, HAS_SCALE)
    place = out + row * n + column[None, :]
    tl.store(place, rounded(y, out.dtype.element_ty), mask=column[None, :] < n)


@triton.jit
def backward_x_kernel(
    dy, codes, scales, nested_absmax, nested_offset, dynamic, table,
    dh, a, seed, dx, m, n, k, rank, threshold, keep,
    NESTED: tl.constexpr, BITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ALIGNED: tl.constexpr,
    HAS_ADAPTER: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx = dy W + dh A, STEP columns a program; MASKED drops the adapter's share as x was dropped.

    dh [m, rank] float32 is scaled and dropped already.
    """
    row_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    from_m = tl.minimum(row_m, m - 1).to(tl.int64)
    if ALIGNED:
        k = k // STEP * STEP
    column = tl.program_id(1) * STEP + tl.arange(0, STEP)
    dtype: tl.constexpr = dy.dtype.element_ty
    total = tl.zeros((BLOCK_M, STEP), tl.float32)
    for first in range(0, n, BLOCK_N):
        row_n = first + tl.arange(0, BLOCK_N)
        tile = tl.load(
            dy + from_m[:, None] * n + row_n[None, :], mask=row_n[None, :] < n, other=0.0
        )
        w = weight_tile(
            codes, scales, nested_absmax, nested_offset, dynamic, table,
            tl.minimum(row_n, n - 1), tl.program_id(1), k, dtype, NESTED, BITS, BLOCK_SIZE, ALIGNED,
        )  # fmt: skip
        total = product(tile, w, total)
    if HAS_ADAPTER:
        low = tl.zeros((BLOCK_M, STEP), tl.float32)
        for r0 in tl.range(0, rank, LOW_RANK_STEP, num_stages=1):
            r = r0 + tl.arange(0, LOW_RANK_STEP)
            in_rank, in_k = r[:, None] < rank, column[None, :] < k
            at = tl.load(a + r[:, None] * k + column[None, :], mask=in_rank & in_k, other=0.0)
            d = tl.load(dh + from_m[:, None] * rank + r[None, :], mask=r[None, :] < rank, other=0.0)
            low = product(rounded(d, dtype), rounded(at, dtype), low)
        if MASKED:
            low *= kept(from_m[:, None] * k + column[None, :], seed, threshold, keep)
        total += low
    inside = (row_m[:, None] < m) & (column[None, :] < k)
    place = dx + from_m[:, None] * k + column[None, :]
    tl.store(place, rounded(total, dx.dtype.element_ty), mask=inside)
