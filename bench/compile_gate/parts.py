"""The parts of a kernel that run, where no single loop is its work: alternatives, and nests."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bench.compile_gate.sass import TARGET, Body, Instruction, parse


class Loop(NamedTuple):
    """From the label that a branch goes back to, to the branch."""

    start: int
    end: int

    def holds(self, other: "Loop") -> bool:
        """Whether another loop is inside."""
        return self != other and self.start <= other.start and other.end <= self.end


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel and its loops, shortest first."""

    instructions: list[Instruction]
    loops: list[Loop]

    @classmethod
    def of(cls, text: str) -> "Code":
        instructions, labels = parse(text)
        loops = set()
        for position, instruction in enumerate(instructions):
            target = TARGET.search(instruction.operands)
            start = labels.get(target[1], position + 1) if target else position + 1
            if instruction.opcode == "BRA" and start <= position:
                loops.add(Loop(start, position + 1))
        return cls(instructions, sorted(loops, key=lambda loop: loop.end - loop.start))

    def body(self, loop: Loop) -> list[Instruction]:
        return self.instructions[loop.start : loop.end]

    def count(self, loop: Loop, opcode: str) -> int:
        return sum(i.opcode == opcode for i in self.body(loop))

    def without(self, loop: Loop, inner: list[Loop]) -> list[Instruction]:
        """A loop's instructions that are in none of the inner ones."""
        places = range(loop.start, loop.end)
        return [self.instructions[i] for i in places if not any(a <= i < b for a, b in inner)]


def alternative(text: str, accesses: Mapping[str, int]) -> Body:
    """The loop with so many wide accesses of global memory, `{"LDG128": 2}`; the longest such."""
    code = Code.of(text)
    found = []
    for loop in code.loops:
        counts = Counter(f"{i.opcode}{i.global_bits}" for i in code.body(loop))
        if {k: n for k, n in counts.items() if k.endswith(("64", "128"))} == accesses:
            found.append(loop)
    if not found:
        raise RuntimeError(f"a loop should have {dict(accesses)}, none has")
    return Body(tuple(code.body(max(found, key=lambda loop: loop.end - loop.start))), is_loop=True)


# A pass of the loop over ranks does so many; one of the staging loop so many elements a thread.
RANKS_A_PASS, STAGED_A_PASS = 4, 2
STAGED_COLUMNS, THREADS = 128, 256


def norm_tile(text: str, rank: int) -> Body:
    """What a tile of dora_column_norm takes for a rank that is staged at once: its loops together.

    Decoding, squares and addresses once; the multiply-adds, and staging A, as often as they run;
    B stays staged from tile to tile. Of staging's ways the longest is counted, for any type of A.
    """
    code = Code.of(text)
    multiply = max(
        (loop for loop in code.loops if not any(loop.holds(other) for other in code.loops)),
        key=lambda loop: code.count(loop, "FFMA"),
    )
    around = [loop for loop in code.loops if loop.holds(multiply)]
    ranks, tile = around[0], around[-1]
    staging = [loop for loop in code.loops if ranks.holds(loop) and code.count(loop, "STS")]
    inner = [multiply, *staging]
    stage = max((code.body(loop) for loop in staging), key=len)
    parts = [
        *code.without(tile, [ranks]),
        *code.without(ranks, inner),
        *code.body(multiply) * (rank // RANKS_A_PASS),
        *stage * (rank * STAGED_COLUMNS // (THREADS * STAGED_A_PASS)),
    ]
    return Body(tuple(parts), is_loop=True)
