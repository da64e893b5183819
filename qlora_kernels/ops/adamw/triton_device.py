"""Device code of adamw_step and gradient_gate; importing it imports triton.

Tensors come as addresses in a table, so that one launch serves all of them (triton_table.py).
"""

import torch
import triton
import triton.language as tl

from qlora_kernels.formats.blockwise8 import BLOCK as _BLOCK
from qlora_kernels.formats.blockwise8 import TINY as _TINY
from qlora_kernels.gpu.decode_device import rounded, widened
from qlora_kernels.ops.adamw.triton_table import Address, Number

BLOCK = tl.constexpr(_BLOCK)
TINY = tl.constexpr(_TINY)
DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
ADDRESSES, NUMBERS = tl.constexpr(len(Address)), tl.constexpr(len(Number))
PARAMETER_AT, GRADIENT_AT = tl.constexpr(Address.PARAMETER), tl.constexpr(Address.GRADIENT)
M_AT, V_AT = tl.constexpr(Address.EXP_AVG), tl.constexpr(Address.EXP_AVG_SQ)
M_ABSMAX_AT = tl.constexpr(Address.EXP_AVG_ABSMAX)
V_ABSMAX_AT = tl.constexpr(Address.EXP_AVG_SQ_ABSMAX)
MASTER_AT, STEP_AT = tl.constexpr(Address.MASTER), tl.constexpr(Address.STEP)
RATE, DECAY, EPSILON = (tl.constexpr(n) for n in (Number.LR, Number.WEIGHT_DECAY, Number.EPS))
BETA1, BETA2 = tl.constexpr(Number.BETA1), tl.constexpr(Number.BETA2)
LOG_BETA1, LOG_BETA2 = tl.constexpr(Number.LOG_BETA1), tl.constexpr(Number.LOG_BETA2)


@triton.jit
def tensor_at(row, column: tl.constexpr, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """The tensor whose address stands in a column of a segment's row."""
    tensor = tl.load(row + column).to(tl.pointer_type(dtype))
    if ALIGNED:
        tensor = tl.multiple_of(tensor, 16)
    return tensor


@triton.jit
def values_left(size, first, ALIGNED: tl.constexpr, ROWS: tl.constexpr):
    """How many values a program has that starts at block `first` of a tensor."""
    left = tl.minimum(tl.load(size) - first * BLOCK, ROWS * BLOCK).to(tl.int32)
    if ALIGNED:
        left = tl.multiple_of(left, 16)
    return left


@triton.jit
def decoded(codes, absmax, is_block, inside, values):
    """The values [ROWS, BLOCK] of an 8-bit state; 0 beyond the last."""
    code = tl.load(codes, mask=inside, other=0).to(tl.int32)
    scale = tl.load(absmax, mask=is_block, other=0.0)
    return tl.where(inside, tl.load(values + code) * scale[:, None], 0.0)


@triton.jit
def keep_encoded(state, codes, absmax, is_block, inside, thresholds):
    """Store a state as codes: how many of 255 thresholds are below the value over its absmax."""
    largest = tl.max(tl.abs(state), axis=1)
    largest = tl.where(largest < TINY, 0.0, largest)
    one = tl.full(largest.shape, 1.0, tl.float32)
    inverse = tl.where(largest > 0, tl.div_rn(one, tl.where(largest > 0, largest, one)), 0.0)
    scaled = state * inverse[:, None]
    # The first steps of the search choose among seven thresholds that every thread has.
    upper = tl.load(thresholds + 127) < scaled
    code = tl.where(upper, 128, 0)
    at = tl.where(upper, tl.load(thresholds + 191), tl.load(thresholds + 63))
    code += tl.where(at < scaled, 64, 0)
    low = tl.where(code == 64, tl.load(thresholds + 95), tl.load(thresholds + 31))
    high = tl.where(code == 192, tl.load(thresholds + 223), tl.load(thresholds + 159))
    code += tl.where(tl.where(upper, high, low) < scaled, 32, 0)
    for bit in tl.static_range(3, 8):
        step = 128 >> bit
        code += tl.where(tl.load(thresholds + code + step - 1) < scaled, step, 0)
    tl.store(codes, code.to(tl.uint8), mask=inside)
    tl.store(absmax, largest, mask=is_block)


@triton.jit
def updated(p, g, m, v, numbers, t):
    """(p, m, v) after step t of one segment, whose numbers are float64, as Python's are."""
    beta1, beta2 = tl.load(numbers + BETA1), tl.load(numbers + BETA2)
    rate = tl.load(numbers + RATE)
    first = 1.0 - tl.exp(t * tl.load(numbers + LOG_BETA1))
    second = tl.sqrt(1.0 - tl.exp(t * tl.load(numbers + LOG_BETA2))).to(tl.float32)
    m += (g - m) * (1.0 - beta1).to(tl.float32)
    v = v * beta2.to(tl.float32) + g * g * (1.0 - beta2).to(tl.float32)
    root = tl.div_rn(tl.sqrt_rn(v), tl.broadcast_to(second, v.shape))
    denominator = root + tl.load(numbers + EPSILON).to(tl.float32)
    p *= (1.0 - rate * tl.load(numbers + DECAY)).to(tl.float32)
    p -= tl.div_rn(m, denominator) * (rate / first).to(tl.float32)
    return p, m, v


@triton.jit
def adamw_kernel(
    table, sizes, numbers, chunks,
    signed_values, unsigned_values, signed_thresholds, unsigned_thresholds, scale, skip,
    PARAMETER: tl.constexpr, GRADIENT: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS blocks of one segment; op.py has the formula, the segment's row says which states."""
    chunk = chunks + 2 * tl.program_id(0)
    segment, first = tl.load(chunk), tl.load(chunk + 1).to(tl.int64)
    row = table + segment * ADDRESSES
    left = values_left(sizes + segment, first, ALIGNED, ROWS)
    block = tl.arange(0, ROWS)
    place = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]  # [ROWS, BLOCK]
    is_block, inside = block * BLOCK < left, place < left
    if tl.load(skip) == 0:
        start = first * BLOCK
        parameter = tensor_at(row, PARAMETER_AT, PARAMETER, ALIGNED) + start + place
        gradient = tensor_at(row, GRADIENT_AT, GRADIENT, ALIGNED) + start + place
        master = tensor_at(row, MASTER_AT, tl.float32, ALIGNED) + start + place
        wide_m = tensor_at(row, M_AT, tl.float32, ALIGNED) + start + place
        wide_v = tensor_at(row, V_AT, tl.float32, ALIGNED) + start + place
        m_codes = tensor_at(row, M_AT, tl.uint8, ALIGNED) + start + place
        v_codes = tensor_at(row, V_AT, tl.uint8, ALIGNED) + start + place
        m_absmax = tensor_at(row, M_ABSMAX_AT, tl.float32, False) + first + block
        v_absmax = tensor_at(row, V_ABSMAX_AT, tl.float32, False) + first + block
        is_quantized = tl.load(row + M_ABSMAX_AT) != 0
        has_master = tl.load(row + MASTER_AT) != 0
        g = widened(tl.load(gradient, mask=inside, other=0.0)) * tl.load(scale)
        if is_quantized:
            m = decoded(m_codes, m_absmax, is_block, inside, signed_values)
            v = decoded(v_codes, v_absmax, is_block, inside, unsigned_values)
        else:
            m = tl.load(wide_m, mask=inside, other=0.0)
            v = tl.load(wide_v, mask=inside, other=0.0)
        if has_master:
            p = tl.load(master, mask=inside, other=0.0)
        else:
            p = widened(tl.load(parameter, mask=inside, other=0.0))
        t = tl.load(tensor_at(row, STEP_AT, tl.float32, False)).to(tl.float64)
        p, m, v = updated(p, g, m, v, numbers + segment * NUMBERS, t)
        if has_master:
            tl.store(master, p, mask=inside)
        tl.store(parameter, rounded(p, PARAMETER), mask=inside)
        if is_quantized:
            keep_encoded(m, m_codes, m_absmax, is_block, inside, signed_thresholds)
            keep_encoded(v, v_codes, v_absmax, is_block, inside, unsigned_thresholds)
        else:
            tl.store(wide_m, m, mask=inside)
            tl.store(wide_v, v, mask=inside)


@triton.jit
def squares_kernel(
    table, sizes, chunks, partial,
    GRADIENT: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """partial[program] = the sum of squares of ROWS blocks of one gradient, float64."""
    chunk = chunks + 2 * tl.program_id(0)
    number, first = tl.load(chunk), tl.load(chunk + 1).to(tl.int64)
    place = tl.arange(0, ROWS * BLOCK)
    inside = place < values_left(sizes + number, first, ALIGNED, ROWS)
    gradient = tensor_at(table + number, 0, GRADIENT, ALIGNED) + first * BLOCK
    x = tl.load(gradient + place, mask=inside, other=0.0)
    wide = widened(x).to(tl.float64)  # whose squares are exact, and far from its limits
    tl.store(partial + tl.program_id(0), tl.sum(wide * wide, axis=0))
