"""Multiplications and additions in registers: a CPU's own roof, whatever libraries reach of it."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).with_suffix(".cpp")
OPERATIONS = 1 << 30  # of each thread in a call: some milliseconds
FACTOR = 0.5  # sums come to rest at 1, and no operand is denormal
KINDS = ("float", "pair")  # float32 by FMA, pairs of bf16 by vdpbf16ps where that is an instruction


def loops(threads: int) -> list[tuple[Callable[[], object], int]]:
    """Calls that keep so many threads multiplying, each with its number of operations.

    Without a C++ compiler there are none.
    """
    library = _library()
    if library is None:
        return []
    pool = ThreadPoolExecutor(threads)
    found: list[tuple[Callable[[], object], int]] = []
    for kind in KINDS:
        each = getattr(library, f"num_{kind}_operations")()
        if each:
            rounds = OPERATIONS // each
            run = partial(getattr(library, f"multiply_{kind}s"), rounds, FACTOR)
            found.append((partial(_in_all, pool, threads, run), threads * rounds * each))
    return found


def _in_all(pool: ThreadPoolExecutor, threads: int, run: Callable[[], float]) -> None:
    for future in [pool.submit(run) for _ in range(threads)]:  # ctypes lets go of the interpreter
        future.result()


@cache
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "multiply_adds.so"
        flags = ["-std=c++17", "-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([*compiler.split(), *flags, str(SOURCE), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    for kind in KINDS:
        getattr(library, f"num_{kind}_operations").restype = ctypes.c_int64
        multiply = getattr(library, f"multiply_{kind}s")
        multiply.restype, multiply.argtypes = ctypes.c_float, [ctypes.c_int64, ctypes.c_float]
    return library
