"""Inner loops in machine code, for instruction sets that nothing here can run.

A loop is a jump backwards inside a function; it is an inner one if no other loop lies within. Those
that touch 512-bit registers count. What a body spills, it moves between such a register and the
stack: within loops that must not become more.
"""

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qlora_kernels.errors import InputError

WIDE = "%zmm"
_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)$")
_ON_STACK = re.compile(r"\(%r[sb]p[,)]")


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a jump goes."""
        word = self.operands.split(" ")[0]
        return (
            int(word, 16) if self.name.startswith("j") and re.fullmatch("[0-9a-f]+", word) else None
        )

    @property
    def is_spill(self) -> bool:
        return WIDE in self.operands and _ON_STACK.search(self.operands) is not None


def inner_loops(object_file: Path) -> dict[str, int]:
    """`avx512 forward: instructions` and `...: spills`, by the function that holds the loops."""
    if shutil.which("objdump") is None:
        raise InputError("gate: objdump is not installed (apt install binutils)")
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(object_file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = defaultdict(int)
    for name, body in functions(text.splitlines()):
        for loop in loops(body):
            if any(WIDE in instruction.operands for instruction in loop):
                key = f"avx512 {short(name)}"
                found[f"{key}: instructions"] += len(loop)
                found[f"{key}: spills"] += sum(instruction.is_spill for instruction in loop)
    return dict(found)


def functions(lines: Iterable[str]) -> Iterator[tuple[str, list[Instruction]]]:
    name, body = "", list[Instruction]()
    for line in lines:
        if started := _FUNCTION.match(line):
            if body:
                yield name, body
            name, body = started[1], []
        elif found := _INSTRUCTION.match(line):
            body.append(Instruction(int(found[1], 16), found[2], found[3]))
    if body:
        yield name, body


def loops(body: list[Instruction]) -> Iterator[list[Instruction]]:
    """The innermost ones."""
    place = {instruction.address: index for index, instruction in enumerate(body)}
    jumps = [(place.get(i.target, index + 1), index) for index, i in enumerate(body) if i.target]
    spans = sorted({(start, end) for start, end in jumps if start <= end})
    for start, end in spans:
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in spans):
            yield body[start : end + 1]


def short(name: str) -> str:
    """`auto qlora::cpu::avx512::A::f<int>(long) const::{lambda(int)#1}::operator()()` -> `A::f`."""
    name = re.sub(r" \[clone [^\]]*\]|\(anonymous namespace\)::| const\b", "", name)
    while (bare := re.sub(r"<[^<>]*>|\([^()]*\)|\{[^{}]*\}", "", name)) != name:
        name = bare
    words = name.split(" ")[-1].split("::")
    return "::".join(w for w in words if w not in ("qlora", "cpu", "avx512", "operator", ""))
