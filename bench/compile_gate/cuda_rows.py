"""Reads the CUDA kernels of the built module `_cuda`, for all the architectures it has."""

import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.compile_gate.bound import (
    Bound,
    Work,
    bound,
    occupancy,
    sass_beyond_memory,
    sass_per_weight,
)
from bench.compile_gate.compiled import RESOURCES, Row, tool
from bench.compile_gate.cuda_work import KERNELS, CudaWork
from bench.compile_gate.machines import MACHINES

ROOT = Path(__file__).parents[2]
MODULE = ROOT / f"qlora_kernels/_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"

_FUNCTION = re.compile(r"Function (\S+):\s+(REG:\d+ STACK:\d+ SHARED:\d+ LOCAL:\d+)")
_TEXT = re.compile(r"^\.text\.(\S+):$", re.MULTILINE)
_KERNEL = re.compile(r"(\w+_kernel)(?:<(.*)>)?\(")
_NAMES = {"float": "fp32", "BFloat16": "bf16", "Float16": "fp16"}


def why_not() -> str | None:
    """Why the module cannot be read, in one sentence, where that is no fault."""
    if MODULE.exists() or shutil.which("nvcc") is not None:
        return None
    return "the CUDA kernels are not read, nvcc is not installed"


def fault() -> str | None:
    """Why there is no module of these sources although there could be."""
    if not MODULE.exists():
        return "_cuda should be built, is not (make cuda builds it)"
    built = MODULE.stat().st_mtime
    folders = (ROOT / "csrc/cuda", ROOT / "csrc/common")
    newer = [p for f in folders for p in f.iterdir() if p.stat().st_mtime > built]
    if newer:
        return f"_cuda should be newer than {newer[0].name}, is older (make cuda builds it)"
    return None


def cuda_rows(wanted: set[str]) -> Iterator[Row]:
    """One row for each kernel and architecture of the wanted ops, or of all."""
    with tempfile.TemporaryDirectory() as folder:
        tool("cuobjdump", "-xelf", "all", MODULE, folder=folder)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            number = re.search(r"sm_(\d+)", cubin.name)
            if number is not None and int(number[1]) in MACHINES:
                yield from _rows(cubin, int(number[1]), wanted)


def _rows(cubin: Path, architecture: int, wanted: set[str]) -> Iterator[Row]:
    resources = dict(_FUNCTION.findall(tool("cuobjdump", "--dump-resource-usage", cubin)))
    parts = _TEXT.split(tool("nvdisasm", "-c", cubin))
    code = dict(zip(parts[1::2], parts[2::2], strict=True))
    for symbol, readable in zip(resources, _demangled(list(resources)), strict=True):
        match = _KERNEL.search(readable)
        if match is None or match[1] not in KERNELS:
            raise RuntimeError(f"{readable}: should be a kernel of cuda_work.py, is not")
        for work in KERNELS[match[1]]:
            if not wanted or work.op in wanted:
                yield _row(match, work, architecture, (resources[symbol], code[symbol]))


def _row(match: re.Match[str], work: CudaWork, architecture: int, compiled: tuple[str, str]) -> Row:
    """Of one of its loops; `compiled` is what cuobjdump says of resources, and the code."""
    resources, code = compiled
    arguments = tuple((match[2] or "").replace("qlora::", "").split(", "))
    arguments = tuple(_NAMES.get(argument, argument) for argument in arguments)
    found = RESOURCES.search(resources)
    assert found is not None, resources
    registers, stack, static, local = map(int, found.groups())
    shared, machine = static + work.shared_bytes(arguments), MACHINES[architecture]
    body = work.read(code)
    multiply_adds = sum(i.multiply_adds for i in body.instructions) * work.num_warps
    weights = work.decoded_weights(arguments)
    floats = weights * work.multiply_adds(arguments)
    done = Work(
        body,
        work.num_warps,
        weights,
        multiply_adds,
        work.moved_bytes(arguments),
        float_multiply_adds=floats,
    )
    limit = bound(done, machine) if work.has_bound else Bound(0.0, "none", "none")
    per_weight, beyond = sass_per_weight(done), sass_beyond_memory(done)
    return Row(
        work.op,
        match[1],
        ", ".join(("cuda", *filter(None, (*arguments, work.part)))),
        f"sm_{architecture}",
        registers,
        stack + local,
        shared,
        round(occupancy(machine, registers, shared, work.num_warps), 3),
        body.matrix_instruction,
        None if per_weight is None else round(per_weight, 3),
        " ".join(f"{bits}x{count}" for bits, count in body.load_widths.items()),
        round(limit.share, 3),
        limit.roof,
        limit.limit,
        None if beyond is None else round(beyond, 3),
    )


def _demangled(symbols: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"c++filt: should read names, failed: {done.stderr}")
    return [line.replace("(anonymous namespace)::", "") for line in done.stdout.splitlines()]
