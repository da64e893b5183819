"""Machine code as nvdisasm prints it: instructions, loops, and what a loop's body consists of."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# `  /*0810*/   @!P0 BRA `(.L_x_1) ;` -> predicate, opcode with its modifiers, operands
_INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")

_WARPGROUP = re.compile(r"\w*GMMA\.(\d+)x(\d+)x(\d+)")
_WARP = re.compile(r"[HQ]MMA\.(16816|1688|16832)")
_WARP_SHAPES = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "16832": 16 * 8 * 32}
_GLOBAL = ("LDG", "LDGSTS", "STG")
_WARPS_PER_GROUP = 4


@dataclass(frozen=True)
class Instruction:
    """One machine instruction: `LDG.E.128` is opcode LDG with modifiers E and 128."""

    name: str
    operands: str

    @property
    def opcode(self) -> str:
        return self.name.split(".")[0]

    @property
    def is_matrix(self) -> bool:
        """A product of weights; those of bytes only move codes (csrc/cuda/dequantize.inl)."""
        return self.opcode.endswith("MMA") and self.opcode != "IMMA"

    @property
    def global_bits(self) -> int:
        """How wide a lane's access to global memory is; 0 for everything else."""
        if self.opcode not in _GLOBAL:
            return 0
        for word in self.name.split(".")[1:]:
            if word in ("64", "128", "256"):
                return int(word)
            if word in ("U8", "S8", "U16", "S16"):
                return int(word[1:])
        return 32

    @property
    def multiply_adds(self) -> float:
        """Of one warp's share of a matrix instruction; 0 where the name does not tell its shape."""
        if match := _WARPGROUP.match(self.name):
            m, n, k = map(int, match.groups())
            return m * n * k / _WARPS_PER_GROUP
        match = _WARP.match(self.name)
        return _WARP_SHAPES[match[1]] if match else 0


@dataclass(frozen=True)
class Body:
    """The instructions of an inner loop, or of a whole kernel that has none."""

    instructions: tuple[Instruction, ...]
    is_loop: bool

    def count(self, *opcodes: str) -> int:
        return sum(i.opcode in opcodes for i in self.instructions)

    @property
    def num_matrix(self) -> int:
        return sum(i.is_matrix for i in self.instructions)

    @property
    def load_widths(self) -> dict[int, int]:
        """Bits per lane -> how many loads from global memory."""
        loads = (i for i in self.instructions if i.opcode in ("LDG", "LDGSTS"))
        return dict(sorted(Counter(i.global_bits for i in loads).items(), reverse=True))

    @property
    def matrix_instruction(self) -> str:
        """`wgmma 64x128x16, A in registers`, `mma.sync 16816`, `tcgen05`, or nothing."""
        for i in self.instructions:
            if i.opcode.endswith("GMMA"):
                first = i.operands.split(",")[1].strip()
                place = "registers" if first.startswith("R") else "shared memory"
                return f"wgmma {i.name.split('.')[1]}, A in {place}"
            if i.opcode.startswith("UTC") and i.is_matrix:
                return "tcgen05"
            if i.is_matrix:
                return f"mma.sync {i.name.split('.')[1]}"
        return ""


def inner_body(text: str, mark: str = "") -> Body:
    """The loop that does the work: the innermost one with most matrix instructions, then longest.

    A loop is what a branch back to a label encloses. Loops that only wait (for a barrier, or the
    endless one after the end of a kernel) touch no memory and multiply nothing. With a mark, it is
    the shortest loop with an instruction that begins so: code set apart at the end jumps back too.
    """
    instructions, labels = parse(text)
    loops = set()
    for position, instruction in enumerate(instructions):
        target = TARGET.search(instruction.operands)
        if instruction.opcode == "BRA" and target:
            start = labels.get(target[1], position + 1)
            body = instructions[start : position + 1]
            if start <= position and any(i.is_matrix or i.global_bits for i in body):
                loops.add((start, position + 1))
    if mark:
        marked = [a for a in loops if any(i.name.startswith(mark) for i in instructions[slice(*a)])]
        start, end = min(marked, key=lambda loop: loop[1] - loop[0])
        return Body(tuple(instructions[start:end]), is_loop=True)
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    if not inner:
        return Body(_without_padding(instructions), is_loop=False)
    bodies = [Body(tuple(instructions[start:end]), is_loop=True) for start, end in inner]
    return max(bodies, key=lambda body: (body.num_matrix, len(body.instructions)))


def parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions, and where each label stands among them."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif (found := _INSTRUCTION.search(line)) and found[2] != "NOP":
            instructions.append(Instruction(found[2], found[3]))
    return instructions, labels


def _without_padding(instructions: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Up to the last EXIT: behind it stands the endless loop that fills the code to its end."""
    ends = [i for i, instruction in enumerate(instructions) if instruction.opcode == "EXIT"]
    return tuple(instructions[: ends[-1] + 1] if ends else instructions)
