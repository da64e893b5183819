"""How near to its roof a kernel can come by its instruction count alone, and how many fit.

    roof   = max(multiply-adds / rate of their kind, bytes / bandwidth)  clocks of one program
    pipes  = max over pipes of (instructions x 32 x warps / lanes of the pipe)
    share  = roof / max(roof, pipes)

It ignores what static code does not show: latencies, bank conflicts, barriers and, for Triton on
Hopper, that a program's warpgroups run in lock-step, so that decoding and multiplying overlap less
than the formula grants. It is an upper bound, made to see a kernel get worse.
"""

from dataclasses import dataclass

from bench.compile_gate.machines import ISSUE_LANES, PIPES, Machine
from bench.compile_gate.sass import Body
from qlora_kernels.gpu.compile_case import NF4_BYTES, WARP


@dataclass(frozen=True)
class Work:
    """What one program does in one pass through a body."""

    body: Body
    num_warps: int
    decoded_weights: int  # 0: it decodes none
    multiply_adds: float  # of its matrix instructions, all warps together
    moved_bytes: int = 0  # 0: those of its loads and stores
    bytes_per_weight: float = NF4_BYTES  # of a code and its share of the scales
    float_multiply_adds: float = 0  # of float32, those that its products ask for


@dataclass(frozen=True)
class Bound:
    """share: the upper bound, of the roof; roof, limit: what is nearest on either side."""

    share: float
    roof: str
    limit: str


def bound(work: Work, machine: Machine) -> Bound:
    roofs = {
        "tensor": work.multiply_adds / machine.multiply_adds,
        "float32": work.float_multiply_adds / machine.float32_lanes,
        "bandwidth": _bytes(work) / machine.bytes_per_clock,
    }
    clocks = pipe_clocks(work)
    roof, limit = max(roofs, key=roofs.__getitem__), max(clocks, key=clocks.__getitem__)
    if roofs[roof] == 0:
        return Bound(0.0, "none", limit)
    return Bound(roofs[roof] / max(roofs[roof], clocks[limit]), roof, limit)


def pipe_clocks(work: Work) -> dict[str, float]:
    """Clocks that each pipe needs for a program; every instruction takes an issue slot."""
    lanes = WARP * work.num_warps
    clocks = {"issue": len(work.body.instructions) * lanes / ISSUE_LANES}
    for pipe, (rate, opcodes) in PIPES.items():
        clocks[pipe] = work.body.count(*opcodes) * lanes / rate
    return clocks


def _bytes(work: Work) -> float:
    """Codes and scales, and what is stored; all of memory's traffic where no weight is decoded.

    Loads of x are left out beside weights: programs that share them find them in the cache.
    """
    if work.moved_bytes:
        return work.moved_bytes
    lanes = WARP * work.num_warps
    stores = sum(i.global_bits for i in work.body.instructions if i.opcode == "STG") / 8
    if work.decoded_weights:
        return work.decoded_weights * work.bytes_per_weight + stores * lanes
    return sum(i.global_bits for i in work.body.instructions) / 8 * lanes


def sass_per_weight(work: Work) -> float | None:
    """Instructions of a lane per decoded weight, the matrix instructions left out."""
    if not work.decoded_weights:
        return None
    count = len(work.body.instructions) - work.body.num_matrix
    return count * WARP * work.num_warps / work.decoded_weights


# Shared memory counts as memory; a wait for asynchronous copies is part of the load.
_MEMORY = ("LDG", "STG", "LDGSTS", "LDGDEPBAR", "DEPBAR", "LDS", "STS", "LDSM", "STSM", "LDC")


def sass_beyond_memory(work: Work) -> float | None:
    """The same without loads and stores: arithmetic, addresses and the loop itself."""
    if not work.decoded_weights:
        return None
    count = len(work.body.instructions) - work.body.num_matrix - work.body.count(*_MEMORY)
    return count * WARP * work.num_warps / work.decoded_weights


def occupancy(machine: Machine, registers: int, shared_bytes: int, num_warps: int) -> float:
    """The share of a multiprocessor's warps that can be resident; registers come in eights."""
    per_warp = -(-registers // 8) * 8 * WARP
    programs = min(
        machine.max_programs,
        machine.max_warps // num_warps,
        machine.registers // (per_warp * num_warps),
        machine.shared_bytes // (shared_bytes + 1024) if shared_bytes else machine.max_programs,
    )
    return programs * num_warps / machine.max_warps
