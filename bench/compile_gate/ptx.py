"""How often the assembler unrolled the inner loop: it does so by itself, and weights multiply."""

import re

from bench.compile_gate.sass import Body

_LABEL = re.compile(r"^(\$L\w+):")
_BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$L\w+)\s*;")
_LOAD = re.compile(r"\b(?:ld\.global|cp\.async\.c[ag])\.")
_MATRIX = re.compile(r"\b(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)\.")


def unrolled(body: Body, ptx: str) -> int:
    """Passes of the loop as written that one pass of the machine's loop does."""
    if not body.is_loop:
        return 1
    matrix, loads = _inner_counts(ptx)
    in_machine = body.num_matrix if matrix else sum(body.load_widths.values())
    return max(1, round(in_machine / (matrix or loads or in_machine)))


def _inner_counts(ptx: str) -> tuple[int, int]:
    """Matrix instructions and global loads of the loop that has most of them."""
    lines = ptx.splitlines()
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        elif (branch := _BRANCH.search(line)) and branch[1] in labels:
            loops.append((labels[branch[1]], number))
    found = [(0, 0)]
    for loop in loops:
        encloses = any(loop[0] <= a and b <= loop[1] for a, b in loops if (a, b) != loop)
        if not encloses:
            text = "\n".join(lines[slice(*loop)])
            found.append((len(_MATRIX.findall(text)), len(_LOAD.findall(text))))
    return max(found)
