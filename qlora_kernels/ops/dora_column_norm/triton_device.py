"""Device code of dora_column_norm; importing it imports triton.

A tile of W is decoded, the same tile of s B A multiplied, and the squares of their sum added, all
in registers. That is as many multiply-adds as W A^T takes, and unlike op.py's three terms it holds
where they cancel, without the double precision that many GPUs hardly have.
"""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import widened
from qlora_kernels.gpu.weight_device import STEP, product, weight_tile


@triton.jit
def column_norm_kernel(
    codes, scales, nested_absmax, nested_offset, dynamic, table,
    a, b, partial, n, k, rank, scaling,
    NESTED: tl.constexpr, BITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK_N: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """partial[split] = |W_n + s B_n A|^2 over a share of k, BLOCK_N rows a program."""
    split = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    from_n = tl.minimum(row, n - 1).to(tl.int64)
    if ALIGNED:
        k = k // STEP * STEP  # the compiler learns that columns start at wide addresses
    steps = tl.cdiv(k, STEP)
    share = tl.cdiv(steps, SPLITS)
    squares = tl.zeros((BLOCK_N, STEP), tl.float32)
    for step in range(split * share, tl.minimum(split * share + share, steps)):
        column = step * STEP + tl.arange(0, STEP)
        update = tl.zeros((BLOCK_N, STEP), tl.float32)
        for first in tl.range(0, rank, RANK, num_stages=1):
            r = first + tl.arange(0, RANK)
            bt = tl.load(b + from_n[:, None] * rank + r[None, :], mask=r[None, :] < rank, other=0.0)
            inside = (r[:, None] < rank) & (column[None, :] < k)
            at = tl.load(a + r[:, None].to(tl.int64) * k + column[None, :], mask=inside, other=0.0)
            update = product(widened(bt), widened(at), update)
        w = weight_tile(
            codes, scales, nested_absmax, nested_offset, dynamic, table,
            from_n, step, k, tl.float32, NESTED, BITS, BLOCK_SIZE, ALIGNED,
        )  # fmt: skip
        w += update * scaling
        squares += w * w
    tl.store(partial + split * n + from_n, tl.sum(squares, axis=1), mask=row < n)


@triton.jit
def root_kernel(partial, norm, n, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """norm = sqrt(the shares of k, added in order)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(partial + split * n + i, mask=i < n, other=0.0)
    tl.store(norm + i, tl.sqrt_rn(total), mask=i < n)
