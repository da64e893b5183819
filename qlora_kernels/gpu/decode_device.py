"""Device code that turns stored bytes into weights and scales; importing it imports triton."""

import triton
import triton.language as tl

from qlora_kernels.gpu import permutes
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.gpu.table import COPY, FACTOR, PLANES

INTERPRETED = tl.constexpr(interpreting())
NESTED_BLOCK_SIZE = tl.constexpr(256)
INT8_MAX = tl.constexpr(127.0)
_PLANES = tl.constexpr(PLANES)
_FACTOR = tl.constexpr(FACTOR)
_PAIRS, _PAIRS_CONSTRAINTS = map(tl.constexpr, permutes.pairs())
_SINGLES, _SINGLES_CONSTRAINTS = map(tl.constexpr, permutes.singles())
_LOAD_BY_LANE = tl.constexpr(permutes.load_by_lane(copy_bytes=4 * COPY))


@triton.jit
def plane(table, i: tl.constexpr):
    """One word of the byte planes, in a register of each thread.

    All threads have the same word, and the compiler, if it saw that, would keep it in a uniform
    register and move it back before each permute. So odd threads read it from a second copy.
    """
    return tl.inline_asm_elementwise(
        _LOAD_BY_LANE,
        "=r,l",
        [(table + _PLANES + i).to(tl.int64)],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def factor(table):
    """What scales are multiplied with, since the table's values were rounded well (table.py)."""
    return tl.load(table + _FACTOR).to(tl.float32, bitcast=True)


@triton.jit
def value_of(code, table):
    """The value of each code, by a tree of choices: any tensor of codes, wherever it came from."""
    low = (code & 1) != 0
    a = tl.where(low, tl.load(table + 1), tl.load(table + 0))
    b = tl.where(low, tl.load(table + 3), tl.load(table + 2))
    c = tl.where(low, tl.load(table + 5), tl.load(table + 4))
    d = tl.where(low, tl.load(table + 7), tl.load(table + 6))
    e = tl.where(low, tl.load(table + 9), tl.load(table + 8))
    f = tl.where(low, tl.load(table + 11), tl.load(table + 10))
    g = tl.where(low, tl.load(table + 13), tl.load(table + 12))
    h = tl.where(low, tl.load(table + 15), tl.load(table + 14))
    second, third, fourth = (code & 2) != 0, (code & 4) != 0, (code & 8) != 0
    a, c, e, g = (
        tl.where(second, b, a),
        tl.where(second, d, c),
        tl.where(second, f, e),
        tl.where(second, h, g),
    )
    chosen = tl.where(fourth, tl.where(third, g, e), tl.where(third, c, a))
    return chosen.to(tl.float32, bitcast=True)


@triton.jit
def two_values(byte, table, DTYPE: tl.constexpr):
    """(first, second) value of each byte of 4-bit codes, exact in the table's dtype."""
    if INTERPRETED:
        # There is no PTX to interpret; a table in memory is its quick equal.
        first = tl.load(table + (byte >> 4).to(tl.int32)).to(tl.float32, bitcast=True)
        second = tl.load(table + (byte & 15).to(tl.int32)).to(tl.float32, bitcast=True)
        first, second = rounded(first, DTYPE), rounded(second, DTYPE)
    elif tl.float32 == DTYPE:
        first, second = _two_singles(byte, table)
    else:
        pair = _pair(byte, table)
        first = pair.to(tl.int16).to(DTYPE, bitcast=True)
        second = (pair >> 16).to(tl.int16).to(DTYPE, bitcast=True)
    return first, second


@triton.jit
def _pair(byte, table):
    return tl.inline_asm_elementwise(
        _PAIRS,
        _PAIRS_CONSTRAINTS,
        [
            byte,
            plane(table, 0), plane(table, 1), plane(table, 2), plane(table, 3),
            plane(table, 4), plane(table, 5), plane(table, 6), plane(table, 7),
        ],
        dtype=tl.int32,
        is_pure=True,
        pack=4,
    )  # fmt: skip


@triton.jit
def _two_singles(byte, table):
    first, second = tl.inline_asm_elementwise(
        _SINGLES,
        _SINGLES_CONSTRAINTS,
        [
            byte,
            plane(table, 0), plane(table, 1), plane(table, 2), plane(table, 3),
            plane(table, 4), plane(table, 5), plane(table, 6), plane(table, 7),
            plane(table, 8), plane(table, 9), plane(table, 10), plane(table, 11),
            plane(table, 12), plane(table, 13), plane(table, 14), plane(table, 15),
        ],
        dtype=(tl.int32, tl.int32),
        is_pure=True,
        pack=4,
    )  # fmt: skip
    return first.to(tl.float32, bitcast=True), second.to(tl.float32, bitcast=True)


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
def widened(x):
    """x in float32; the interpreter's own way from bfloat16 loses what is subnormal."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        result = bits.to(tl.float32, bitcast=True)
    else:
        result = x.to(tl.float32)
    return result


@triton.jit
def absmax_at(block, mask, scales, nested_absmax, nested_offset, dynamic_map, NESTED: tl.constexpr):
    """The effective float32 scale of each block number."""
    if NESTED:
        centred = tl.load(dynamic_map + tl.load(scales + block, mask=mask, other=0).to(tl.int32))
        group = block.to(tl.uint32) // NESTED_BLOCK_SIZE  # unsigned: a shift
        nested = tl.load(nested_absmax + group, mask=mask, other=0.0)
        absmax = centred * nested + tl.load(nested_offset)
    else:
        absmax = tl.load(scales + block, mask=mask, other=0.0)
    return absmax
