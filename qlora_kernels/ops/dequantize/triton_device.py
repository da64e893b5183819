"""Device code of dequantize; importing it imports triton."""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import INT8_MAX, absmax_at, rounded, two_values


@triton.jit
def dequantize_kernel(
    codes,
    scales,
    nested_absmax,
    nested_offset,
    dynamic,
    table,
    out,
    count,
    width,  # of a row of the weight, and what `out` has between two: only with GAPS
    gap,
    NESTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROW: tl.constexpr,  # values that share a scale: a block, or a part of one
    ROWS: tl.constexpr,
    WHOLE: tl.constexpr,  # every program has all of its values: no masks, wide loads
    GAPS: tl.constexpr,  # out's rows lie apart; then ROW values are of one row
):
    """out = value * absmax, ROWS x ROW values a program."""
    start = tl.program_id(0).to(tl.int64) * (ROWS * ROW)
    left = tl.minimum(count - start, ROWS * ROW).to(tl.int32)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, ROW)
    place = row[:, None] * ROW + column[None, :]  # [ROWS, ROW]
    inside = (place < left) | WHOLE
    block = (start + row * ROW) // BLOCK_SIZE
    absmax = absmax_at(
        block, (row * ROW < left) | WHOLE, scales, nested_absmax, nested_offset, dynamic, NESTED
    )
    if BITS == 4:
        half = row[:, None] * (ROW // 2) + tl.arange(0, ROW // 2)[None, :]  # [ROWS, ROW / 2]
        byte = tl.load(codes + start // 2 + half, mask=(2 * half < left) | WHOLE, other=0)
        first, second = two_values(byte, table, tl.float32)
        values = tl.join(first * absmax[:, None], second * absmax[:, None]).reshape(ROWS, ROW)
    else:
        code = tl.load(codes + start + place, mask=inside, other=0).to(tl.int8, bitcast=True)
        values = code.to(tl.float32) * tl.div_rn(absmax, INT8_MAX)[:, None]
    to = out + start + place
    if GAPS:
        first = start // width
        below = ((start - first * width).to(tl.int32) + row * ROW) // width
        to += (first * gap + below.to(tl.int64) * gap)[:, None]
    tl.store(to, rounded(values, out.dtype.element_ty), mask=inside)
