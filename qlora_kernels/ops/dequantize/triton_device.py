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
    NESTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROW: tl.constexpr,  # values that share a scale: a block, or a part of one
    ROWS: tl.constexpr,
    WHOLE: tl.constexpr,  # every program has all of its values: no masks, wide loads
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
    tl.store(out + start + place, rounded(values, out.dtype.element_ty), mask=inside)
