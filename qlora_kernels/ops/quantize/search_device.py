"""Device code of the search for scales (scale_search.py has the rule); importing it imports triton.

A program has some blocks, and of each a running sum for every eighth value: what is added to each
comes in the order of the values, as the rule wants it.
"""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import widened
from qlora_kernels.ops.quantize.triton_device import LARGEST, NUM_THRESHOLDS, floored_at_tiny

NUM_SUMS = tl.constexpr(8)


@triton.jit
def scale_kernel(w, absmax, scaled, count, BLOCK_SIZE: tl.constexpr, VALUES: tl.constexpr):
    """scaled = w / the absmax of its block, in [-1, 1]: by a product but in a short block."""
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    inside = place < count
    x = widened(tl.load(w + place, mask=inside, other=0.0))
    block = place // BLOCK_SIZE
    largest = floored_at_tiny(tl.load(absmax + block, mask=inside, other=1.0))
    y = x * tl.div_rn(tl.full((VALUES,), 1.0, tl.float32), largest)
    y = tl.where((block + 1) * BLOCK_SIZE > count, tl.div_rn(x, largest), y)
    tl.store(scaled + place, tl.minimum(tl.maximum(y, -1.0), 1.0), mask=inside)


@triton.jit
def search_kernel(
    scaled, importance, thresholds, values, order, absmax, ratios, inverses,
    choice, codes, count, columns, num_candidates, num_blocks,
    SHARED: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """choice = the first candidate of least error for each of ROWS blocks; codes those for it.

    ratios [candidates, blocks]: scales by the absmax of their blocks, NaN for none; inverses: 1 by
    them. SHARED: all blocks try the same [candidates], of those that give a finite scale. The first
    candidate needs neither.
    """
    block = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = block * BLOCK_SIZE
    exists = first < count
    largest = tl.load(absmax + block, mask=exists, other=0.0)
    best = tl.zeros((ROWS,), tl.int32)
    kept, least = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for i in range(num_candidates):
        at = tl.zeros_like(block) + i if SHARED else i * num_blocks + block
        ratio = tl.load(ratios + at, mask=exists, other=0.0)
        inverse = tl.load(inverses + at, mask=exists, other=0.0)
        error = block_errors(
            scaled, importance, thresholds, values, first, ratio, inverse, count, columns,
            WEIGHTED, BLOCK_SIZE,
        )  # fmt: skip
        allowed = tl.abs(ratio * largest) <= LARGEST if SHARED else ratio == ratio
        better = (allowed & (error < least)) | (i == 0)
        best, kept = tl.where(better, i, best), tl.where(better, inverse, kept)
        least = tl.where(better, error, least)
    tl.store(choice + block, best, mask=exists)
    write_codes(scaled, thresholds, order, codes, first, kept, count, BLOCK_SIZE)


@triton.jit
def block_errors(
    scaled, importance, thresholds, values, first, ratio, inverse, count, columns,
    WEIGHTED: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Sum over each block of importance (x - nearest value * ratio)^2."""
    ROWS: tl.constexpr = inverse.shape[0]
    sums = tl.zeros((ROWS, NUM_SUMS), tl.float32)
    lane = tl.arange(0, NUM_SUMS)
    if WEIGHTED:
        column = (first % columns).to(tl.uint32)
    for start in range(0, tl.minimum(count, BLOCK_SIZE), NUM_SUMS):
        place = first[:, None] + (lane + start)[None, :]
        inside = place < count
        x = tl.load(scaled + place, mask=inside, other=0.0)
        unit = x * inverse[:, None]
        nearest = tl.zeros_like(x) + tl.load(values)
        for i in tl.static_range(NUM_THRESHOLDS):
            above = unit > tl.load(thresholds + i)
            nearest = tl.where(above, tl.load(values + i + 1), nearest)
        error = x - nearest * ratio[:, None]
        square = error * error
        if WEIGHTED:
            at = (column[:, None] + (lane + start)[None, :]) % tl.cast(columns, tl.uint32)
            square *= tl.load(importance + at, mask=inside, other=0.0)
        sums += tl.where(inside, square, 0.0)
    quarters = tl.sum(sums.reshape(ROWS, 2, NUM_SUMS // 2), axis=1)
    halves = tl.sum(quarters.reshape(ROWS, 2, NUM_SUMS // 4), axis=1)
    return tl.sum(halves, axis=1)


@triton.jit
def write_codes(
    scaled, thresholds, order, codes, first, inverse, count, BLOCK_SIZE: tl.constexpr
):  # fmt: skip
    """The nearest codes in scales of these inverses, two a byte; an odd count gets one of zero."""
    ROWS: tl.constexpr = inverse.shape[0]
    lane = tl.arange(0, NUM_SUMS)
    pair = tl.arange(0, NUM_SUMS // 2)
    for start in range(0, tl.minimum(count, BLOCK_SIZE), NUM_SUMS):
        place = first[:, None] + (lane + start)[None, :]
        inside = place < count
        unit = tl.load(scaled + place, mask=inside, other=0.0) * inverse[:, None]
        unit = tl.where(inside, unit, 0.0)
        rank = tl.zeros((ROWS, NUM_SUMS), tl.int32)
        for i in tl.static_range(NUM_THRESHOLDS):
            rank += (unit > tl.load(thresholds + i)).to(tl.int32)
        code = ((order >> (4 * rank).to(tl.int64)) & 15).to(tl.uint8)
        even, odd = tl.split(code.reshape(ROWS, NUM_SUMS // 2, 2))
        half = first[:, None] // 2 + (pair + start // 2)[None, :]
        tl.store(codes + half, (even << 4) | odd, mask=2 * half < count)
