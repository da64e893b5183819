"""Device code of quantize; importing it imports triton."""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import INT8_MAX, widened
from qlora_kernels.ops.quantize.rule import TINY as _TINY

TINY = tl.constexpr(_TINY)
LARGEST = tl.constexpr(3.4028234663852886e38)  # of float32: whatever is not below it is infinite
TO_EVEN = tl.constexpr(1.5 * 2**23)  # added and taken away, it rounds to integers, ties to even
NUM_THRESHOLDS = tl.constexpr(15)


@triton.jit
def floored_at_tiny(absmax):
    """Triton 3.6 takes a number below float32's normal range for a float64, unless it is filled."""
    return tl.maximum(absmax, tl.full(absmax.shape, TINY, tl.float32))


@triton.jit
def quantize_kernel(
    w, thresholds, order, codes, absmax, is_bad, count,
    BITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """codes and absmax of ROWS blocks; is_bad: whether one of their values is not finite.

    order: the codes in order of their values, four bits each. RAGGED: the last block is short.
    """
    first = tl.program_id(0).to(tl.int64) * ROWS
    block = first + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_SIZE)
    place = block[:, None] * BLOCK_SIZE + column[None, :]  # [ROWS, BLOCK_SIZE]
    x = widened(tl.load(w + place, mask=place < count, other=0.0))
    size = tl.abs(x)
    finite = size <= LARGEST  # false for NaN
    tl.store(is_bad + tl.program_id(0), tl.max(tl.max((~finite).to(tl.int32), axis=1), axis=0))
    largest = tl.max(size, axis=1)  # [ROWS]
    is_block = block * BLOCK_SIZE < count
    if BITS == 4:
        short = (block + 1) * BLOCK_SIZE > count
        floored = floored_at_tiny(largest)
        if RAGGED:
            largest = tl.where(short, floored, largest)
        scaled = x * tl.div_rn(tl.full((ROWS,), 1.0, tl.float32), floored)[:, None]
        if RAGGED:  # bitsandbytes divides where a block is short
            divisor = tl.broadcast_to(floored[:, None], (ROWS, BLOCK_SIZE))
            scaled = tl.where(short[:, None], tl.div_rn(x, divisor), scaled)
        index = tl.zeros((ROWS, BLOCK_SIZE), tl.int32)
        for i in tl.static_range(NUM_THRESHOLDS):
            index += (scaled > tl.load(thresholds + i)).to(tl.int32)
        code = (order >> (4 * index).to(tl.int64)) & 15
        even, odd = tl.split(code.to(tl.uint8).reshape(ROWS, BLOCK_SIZE // 2, 2))
        half = block[:, None] * (BLOCK_SIZE // 2) + tl.arange(0, BLOCK_SIZE // 2)[None, :]
        tl.store(codes + half, (even << 4) | odd, mask=2 * half < count)
    else:
        scale = tl.div_rn(largest, tl.full((ROWS,), INT8_MAX, tl.float32))
        divisor = tl.where(scale > 0, scale, 1.0)
        ratio = tl.div_rn(x, tl.broadcast_to(divisor[:, None], (ROWS, BLOCK_SIZE)))
        rounded = (ratio + TO_EVEN) - TO_EVEN
        clamped = tl.minimum(tl.maximum(rounded, -INT8_MAX), INT8_MAX)
        tl.store(codes + place, clamped.to(tl.int8).to(tl.uint8, bitcast=True), mask=place < count)
    tl.store(absmax + block, largest, mask=is_block)


@triton.jit
def quantize_scales_kernel(absmax, offset, values, codes, nested_absmax, count, SIZE: tl.constexpr):
    """One block of scales: codes of the nearest of 256 values, ties to the lower."""
    row = tl.program_id(0).to(tl.int64)
    place = row * SIZE + tl.arange(0, SIZE)
    inside = place < count
    centred = tl.where(
        inside, tl.load(absmax + place, mask=inside, other=0.0) - tl.load(offset), 0.0
    )
    largest = tl.max(tl.abs(centred), axis=0)
    divisor = tl.where(largest > 0, largest, 1.0)
    ratio = tl.div_rn(centred, tl.broadcast_to(divisor, (SIZE,)))
    above = tl.zeros((SIZE,), tl.int32)  # how many values are below the ratio
    for bit in tl.static_range(8):
        step = 128 >> bit
        above += tl.where(tl.load(values + above + step - 1) < ratio, step, 0)
    above = tl.maximum(above, 1)
    # Distances are compared in float64: exact, so that a tie is a tie.
    exact = ratio.to(tl.float64)
    up = tl.load(values + above).to(tl.float64) - exact
    down = exact - tl.load(values + above - 1).to(tl.float64)
    code = tl.where(up < down, above, above - 1)
    tl.store(codes + place, code.to(tl.uint8), mask=inside)
    tl.store(nested_absmax + row, largest)
