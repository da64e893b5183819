"""The few PTX instructions that decode codes, run in Python: what the interpreter cannot do."""

import re
from collections.abc import Sequence

MASK = 0xFFFFFFFF


def permute(a: int, b: int, selector: int) -> int:
    """`prmt`: each nibble of the selector picks a byte of b:a, or copies its sign."""
    data = (b << 32 | a).to_bytes(8, "little")
    nibbles = [selector >> (4 * i) & 15 for i in range(4)]
    picked = [255 * (data[n & 7] >> 7) if n & 8 else data[n] for n in nibbles]
    return int.from_bytes(bytes(picked), "little")


OPERATIONS = {
    "and.b32": lambda a, b: a & b,
    "shr.b32": lambda a, b: a >> b,
    "shl.b32": lambda a, b: a << b,
    "prmt.b32": lambda a, b, selector: permute(a, b, selector & 0xFFFF),
    "lop3.b32": lambda a, b, c, table: (a & b) | (~a & c) if table == 0xCA else None,
}


def run(assembly: str, num_outputs: int, inputs: Sequence[int]) -> list[int]:
    """The output words of an assembly whose operands are $0, $1, ...: outputs first."""
    registers = {f"${num_outputs + i}": value for i, value in enumerate(inputs)}
    for line in re.findall(r"^(?!\.reg)(\w[\w.]*) (.*);$", assembly, re.MULTILINE):
        target, *sources = [word.strip() for word in line[1].split(",")]
        values = [registers[s] if s in registers else int(s, 0) for s in sources]
        registers[target] = OPERATIONS[line[0]](*values) & MASK
    return [registers[f"${i}"] for i in range(num_outputs)]
