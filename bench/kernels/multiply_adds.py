"""Multiplications and additions in registers: a CPU's own roof, whatever libraries reach of it."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = [
    *("-std=c++17", "-O2", "-march=native", "-ffp-contract=fast"),
    *("-fopenmp", "-shared", "-fPIC"),  # OpenMP binds threads to cores where it is told to
]
OPERATIONS = 1 << 30  # of each thread in a call: some milliseconds
FACTOR = 0.5  # sums come to rest at 1, and no operand is denormal
# float32 by FMA, pairs of bf16 by vdpbf16ps where that is an instruction
KINDS = {"fp32": ("float",), "fp16": ("float",), "bf16": ("float", "pair")}  # of exact factors


def loops(threads: int, dtype: str) -> list[tuple[Callable[[], object], int]]:
    """Calls that keep so many threads multiplying, each with its number of operations: in the ways
    that may stand for products of the dtype, as pairs of bf16 do not for float32.

    Without a C++ compiler there are none.
    """
    library = _library()
    if library is None:
        return []
    found: list[tuple[Callable[[], object], int]] = []
    for kind in KINDS[dtype]:
        each = getattr(library, f"num_{kind}_operations")()
        if each:
            rounds = OPERATIONS // each
            run = partial(getattr(library, f"multiply_{kind}s"), threads, rounds, FACTOR)
            found.append((run, threads * rounds * each))
    return found


@cache
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "multiply_adds.so"
        subprocess.run([*compiler.split(), *FLAGS, str(SOURCE), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    for kind in KINDS["bf16"]:
        getattr(library, f"num_{kind}_operations").restype = ctypes.c_int64
        multiply = getattr(library, f"multiply_{kind}s")
        multiply.restype = ctypes.c_float
        multiply.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_float]
    return library
