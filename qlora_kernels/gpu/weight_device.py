"""Device code that gives a tile of a quantized weight [n, k]; importing it imports triton.

Blocks of scales run over the flattened weight. Where k is a multiple of STEP and a block is no
shorter, STEP columns of a row share a scale, and they start at a whole byte: an aligned tile. Any
other weight is read value by value.
"""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import (
    INT8_MAX,
    INTERPRETED,
    absmax_at,
    factor,
    rounded,
    two_values,
    value_of,
    widened,
)
from qlora_kernels.gpu.launch import COLUMNS

STEP = tl.constexpr(COLUMNS)


@triton.jit
def product(a, b, accumulator):
    """`accumulator + a b`, float32; the interpreter multiplies bfloat16 bits as integers."""
    if INTERPRETED:
        a, b = widened(a), widened(b)
    return tl.dot(a, b, accumulator, input_precision="ieee")


@triton.jit
def aligned_tile(
    codes,
    scales,
    nested_absmax,
    nested_offset,
    dynamic,
    table,
    row,  # [ROWS]
    step,  # columns from step * STEP on
    k,
    DTYPE: tl.constexpr,
    NESTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """(unscaled values [ROWS, STEP], their scale [ROWS])."""
    # Steps fit 32 bits: of 64 columns each, they reach further than memory does.
    block = (row * (k // STEP) + step).to(tl.uint32) // (BLOCK_SIZE // STEP)
    always = tl.full(block.shape, True, tl.int1)
    scale = absmax_at(block, always, scales, nested_absmax, nested_offset, dynamic, NESTED)
    first = row.to(tl.int64) * (k // 2 if BITS == 4 else k)  # the same in every step
    if BITS == 4:
        half = step * (STEP // 2) + tl.arange(0, STEP // 2)
        byte = tl.load(codes + first[:, None] + half[None, :])  # [ROWS, STEP / 2]
        even, odd = two_values(byte, table, DTYPE)
        values = tl.join(even, odd).reshape(row.shape[0], STEP)
        scale *= factor(table)
    else:
        column = step * STEP + tl.arange(0, STEP)
        byte = tl.load(codes + first[:, None] + column[None, :])
        values = rounded(byte.to(tl.int8, bitcast=True).to(tl.float32), DTYPE)  # exact
        scale = tl.div_rn(scale, INT8_MAX)
    return values, scale


@triton.jit
def scattered_tile(
    codes,
    scales,
    nested_absmax,
    nested_offset,
    dynamic,
    table,
    row,  # [ROWS]
    step,
    k,
    NESTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Values [ROWS, STEP], float32, scaled; 0 beyond the last column."""
    column = step * STEP + tl.arange(0, STEP)[None, :]
    inside = column < k
    place = row.to(tl.int64)[:, None] * k + column
    scale = absmax_at(
        place // BLOCK_SIZE, inside, scales, nested_absmax, nested_offset, dynamic, NESTED
    )
    if BITS == 4:
        byte = tl.load(codes + place // 2, mask=inside, other=0)
        code = tl.where(place % 2 == 0, byte >> 4, byte & 15)
        values = tl.where(inside, value_of(code, table) * (scale * factor(table)), 0.0)
    else:
        byte = tl.load(codes + place, mask=inside, other=0)
        values = byte.to(tl.int8, bitcast=True).to(tl.float32) * tl.div_rn(scale, INT8_MAX)
    return values


@triton.jit
def weight_tile(
    codes,
    scales,
    nested_absmax,
    nested_offset,
    dynamic,
    table,
    row,
    step,
    k,
    DTYPE: tl.constexpr,
    NESTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Weights [ROWS, STEP] in DTYPE, scaled in float32 and rounded once."""
    if ALIGNED:
        values, scale = aligned_tile(
            codes, scales, nested_absmax, nested_offset, dynamic, table,
            row, step, k, DTYPE, NESTED, BITS, BLOCK_SIZE,
        )  # fmt: skip
        values = values.to(tl.float32) * scale[:, None]
    else:
        values = scattered_tile(
            codes, scales, nested_absmax, nested_offset, dynamic, table,
            row, step, k, NESTED, BITS, BLOCK_SIZE,
        )  # fmt: skip
    return rounded(values, DTYPE)
