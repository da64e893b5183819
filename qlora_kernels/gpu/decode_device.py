"""Device code that turns stored bytes into weights and scales; importing it imports triton."""

import triton
import triton.language as tl

from qlora_kernels.gpu import permutes
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.gpu.table import FACTOR, PLANES

INTERPRETED = tl.constexpr(interpreting())
NESTED_BLOCK_SIZE = tl.constexpr(256)
INT8_MAX = tl.constexpr(127.0)
_PLANES = tl.constexpr(PLANES)
_FACTOR = tl.constexpr(FACTOR)
_PAIRS, _PAIRS_CONSTRAINTS = map(tl.constexpr, permutes.pairs())
_SINGLES, _SINGLES_CONSTRAINTS = map(tl.constexpr, permutes.singles())


@triton.jit
def word(table, i: tl.constexpr):
    """One word of the table: a scalar, loaded before any loop."""
    return tl.load(table + i)


@triton.jit
def factor(table):
    """What scales are multiplied with, since the table's values were rounded well (table.py)."""
    return word(table, _FACTOR).to(tl.float32, bitcast=True)


@triton.jit
def value_of(code, table):
    """The value of each code, by a tree of choices: any tensor of codes, wherever it came from."""
    e, f, g = (code & 1) != 0, (code & 2) != 0, (code & 4) != 0
    low = _choose8(table, 0, e, f, g)
    high = _choose8(table, 8, e, f, g)
    return tl.where((code & 8) != 0, high, low).to(tl.float32, bitcast=True)


@triton.jit
def _choose8(table, i: tl.constexpr, e, f, g):
    a = tl.where(e, word(table, i + 1), word(table, i))
    b = tl.where(e, word(table, i + 3), word(table, i + 2))
    c = tl.where(e, word(table, i + 5), word(table, i + 4))
    d = tl.where(e, word(table, i + 7), word(table, i + 6))
    return tl.where(g, tl.where(f, d, c), tl.where(f, b, a))


@triton.jit
def two_values(byte, table):
    """(first, second) value of each byte of codes, float32; the table's dtype is float32."""
    if INTERPRETED:
        first, second = value_of(byte >> 4, table), value_of(byte & 15, table)
    else:
        t: tl.constexpr = _PLANES
        first, second = tl.inline_asm_elementwise(
            _SINGLES,
            _SINGLES_CONSTRAINTS,
            [
                byte,
                word(table, t), word(table, t + 1), word(table, t + 2), word(table, t + 3),
                word(table, t + 4), word(table, t + 5), word(table, t + 6), word(table, t + 7),
                word(table, t + 8), word(table, t + 9), word(table, t + 10), word(table, t + 11),
                word(table, t + 12), word(table, t + 13), word(table, t + 14), word(table, t + 15),
            ],
            dtype=(tl.int32, tl.int32),
            is_pure=True,
            pack=4,
        )  # fmt: skip
        first, second = first.to(tl.float32, bitcast=True), second.to(tl.float32, bitcast=True)
    return first, second


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x in a float dtype, to the nearest; the interpreter's own bfloat16 is cut off."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        result = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = x.to(dtype)
    return result


@triton.jit
def absmax_at(block, mask, scales, nested_absmax, nested_offset, dynamic_map, NESTED: tl.constexpr):
    """The effective float32 scale of each block number."""
    if NESTED:
        centred = tl.load(dynamic_map + tl.load(scales + block, mask=mask, other=0).to(tl.int32))
        nested = tl.load(nested_absmax + block // NESTED_BLOCK_SIZE, mask=mask, other=0.0)
        absmax = centred * nested + tl.load(nested_offset)
    else:
        absmax = tl.load(scales + block, mask=mask, other=0.0)
    return absmax
