"""Compiles one case for one architecture and reads the result: no GPU is needed."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compile_gate.bound import Work, bound, occupancy, sass_beyond_memory, sass_per_weight
from bench.compile_gate.machines import MACHINES
from bench.compile_gate.ptx import unrolled
from bench.compile_gate.sass import inner_body

RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
# On sm_100 the matrix instruction's shape stands in a descriptor; Triton's own text has it.
_TENSOR_MEMORY_DOT = re.compile(
    r"^( *)ttng\.tc_gen5_mma .*?memdesc<(\d+)x(\d+)x.*?memdesc<\d+x(\d+)x", re.MULTILINE
)


@dataclass(frozen=True)
class Row:
    """One kernel in one configuration on one architecture, as `build/kernels.json` has it."""

    op: str
    kernel: str
    configuration: str
    arch: str
    registers: int
    spills: int  # bytes of local memory per lane
    shared_bytes: int
    occupancy: float
    matrix_instruction: str
    sass_per_weight: float | None
    loads: str  # bits x count, in the inner loop
    bound_share: float
    bound_roof: str
    bound_limit: str
    sass_beyond_memory: float | None = None  # per weight, without loads and stores

    @property
    def key(self) -> str:
        return f"{self.op} {self.kernel} [{self.configuration}] {self.arch}"


def compile_row(case: Any, architecture: int) -> Row:
    """`case`: a CompileCase of the library."""
    compiled = case.compile(architecture)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        resources = RESOURCES.search(tool("cuobjdump", "--dump-resource-usage", cubin))
        body = inner_body(tool("nvdisasm", "-c", cubin))
    if resources is None:
        raise RuntimeError(f"cuobjdump: should tell the resources of {case.name}, did not")
    registers, stack, static_shared, local = map(int, resources.groups())
    shared = max(compiled.metadata.shared, static_shared)
    num_warps = compiled.metadata.num_warps
    passes = unrolled(body, compiled.asm["ptx"])
    multiply_adds = sum(i.multiply_adds for i in body.instructions) * num_warps
    if body.matrix_instruction == "tcgen05":
        multiply_adds = passes * tensor_memory_multiply_adds(compiled.asm["ttgir"])
    weights = passes * case.decoded_weights
    work = Work(body, num_warps, weights, multiply_adds, case.moved_bytes, case.bytes_per_weight)
    machine = MACHINES[architecture]
    found = bound(work, machine)
    per_weight, beyond = sass_per_weight(work), sass_beyond_memory(work)
    return Row(
        case.op,
        case.name,
        case.description,
        f"sm_{architecture}",
        registers,
        stack + local,
        shared,
        round(occupancy(machine, registers, shared, num_warps), 3),
        body.matrix_instruction,
        None if per_weight is None else round(per_weight, 3),
        " ".join(f"{bits}x{count}" for bits, count in body.load_widths.items()),
        round(found.share, 3),
        found.roof,
        found.limit,
        None if beyond is None else round(beyond, 3),
    )


def tensor_memory_multiply_adds(ttgir: str) -> float:
    """m n k of the products [m, k] x [k, n] in tensor memory, those of the innermost loop."""
    products = [(len(d[0]), int(d[1]) * int(d[2]) * int(d[3])) for d in _dots(ttgir)]
    deepest = max((depth for depth, _ in products), default=0)
    return float(sum(count for depth, count in products if depth == deepest))


def _dots(ttgir: str) -> list[tuple[str, str, str, str]]:
    return _TENSOR_MEMORY_DOT.findall(ttgir)


def tool(name: str, *arguments: object, folder: str | None = None) -> str:
    """The output of a disassembly tool that the Triton wheel brings along."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    command = [str(tool), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if result.returncode:
        raise RuntimeError(f"{name}: should read the machine code, failed: {result.stderr}")
    return result.stdout
