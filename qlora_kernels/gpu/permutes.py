"""The PTX that decodes four bytes of 4-bit codes at once with register permutes.

A word q holds eight codes. `prmt(x, y, s)` picks, for each nibble of s, one of the eight bytes of
y:x, so two of them look up codes 0-7 and 8-15 by the low three bits. Where a nibble of s has its
fourth bit, prmt copies the sign of the byte that it picks: so a third makes a mask of the codes'
fourth bits, once for all planes, and a choice of bits by it gives four codes one byte of their
values.
"""

# Signs of the bytes of q << 4 : q, those of nibbles 0-3 and 4-7 of q in order.
_SIGNS = ("0x9d8c", "0xbfae")


def _lookups(planes: int, code: int) -> list[str]:
    """Byte p of the values of nibbles 0-3 in register n0p, of nibbles 4-7 in n1p."""
    words = [f"${code + 1 + 4 * word}" for word in range(4 * planes)]
    lines = [f"and.b32 sel, ${code}, 0x77777777;", f"shl.b32 even, ${code}, 4;"]
    for half in (0, 1):
        lines += ["shr.b32 sel, sel, 16;"] * half
        lines += [f"prmt.b32 upper, ${code}, even, {_SIGNS[half]};"]
        for plane in range(planes):
            first, second, third, fourth = words[4 * plane : 4 * plane + 4]
            lines += [
                f"prmt.b32 low, {first}, {second}, sel;",
                f"prmt.b32 high, {third}, {fourth}, sel;",
                f"lop3.b32 n{half}{plane}, upper, high, low, 0xca;",  # upper ? high : low
            ]
    return lines


def _assembly(lines: list[str]) -> str:
    registers = ["sel", "even", "upper", "low", "high", "t", "u"]
    registers += [f"n{half}{plane}" for half in (0, 1) for plane in range(4)]
    return "\n".join(["{", f".reg .b32 {', '.join(registers)};", *lines, "}"])


def pairs() -> tuple[str, str]:
    """(assembly, constraints): byte -> word of its two 16-bit values, the first in the low half."""
    combine = [
        f"prmt.b32 ${2 * half + odd}, n{half}0, n{half}1, {selector};"
        for half in (0, 1)
        for odd, selector in enumerate(("0x4051", "0x6273"))
    ]
    return _assembly(_lookups(2, code=4) + combine), _constraints(outputs=4, planes=2)


def singles() -> tuple[str, str]:
    """(assembly, constraints): byte -> (first value, second value), 32 bits each."""
    combine = []
    for half in (0, 1):
        for odd, selector in enumerate(("0x5140", "0x7362")):  # bytes of two neighbouring nibbles
            byte = 2 * half + odd
            combine += [
                f"prmt.b32 t, n{half}0, n{half}1, {selector};",
                f"prmt.b32 u, n{half}2, n{half}3, {selector};",
                f"prmt.b32 ${byte}, t, u, 0x7632;",  # the high nibble comes first
                f"prmt.b32 ${4 + byte}, t, u, 0x5410;",
            ]
    return _assembly(_lookups(4, code=8) + combine), _constraints(outputs=8, planes=4)


def load_by_lane(copy_bytes: int) -> str:
    """Assembly: the word at $1, or in odd threads of its copy."""
    return f"""{{
.reg .b32 lane;
.reg .b64 address;
mov.u32 lane, %laneid;
and.b32 lane, lane, 1;
mad.wide.u32 address, lane, {copy_bytes}, $1;
ld.global.nc.b32 $0, [address];
}}"""


def _constraints(outputs: int, planes: int) -> str:
    """Four bytes share a register; a table word, the same for all four, is passed four times."""
    return ",".join(["=r"] * outputs + ["r"] + ["r"] * (4 * 4 * planes))
