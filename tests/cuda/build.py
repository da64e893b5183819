"""Builds `_cuda` for the CPU: the same kernels and bindings, compiled by g++ against the emulation.

The build is kept under build/, named by what it was made of.
"""

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pybind11

ROOT = Path(__file__).parents[2]
EMULATION = ROOT / "tests/cuda/emulation"
FLAGS = ["-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DQLORA_EMULATION", f"-I{EMULATION}"]
# Reports every access of a kernel; emulation/races.cpp stands for the runtime of the sanitizer.
WATCHED = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"]
BINDINGS = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]


def emulated(name: str, kernels: list[Path], bindings: list[Path]) -> Any:
    """The module `name` of these kernels and bindings, built if its sources changed."""
    others = [*EMULATION.glob("*.cpp"), *bindings]
    folder = ROOT / "build/emulation" / f"{name}-{_digest([*kernels, *others])}"
    library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _build(library, kernels, others)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _digest(sources: list[Path]) -> str:
    headers = [*ROOT.glob("csrc/c*/*.h"), *ROOT.glob("csrc/c*/*.inl"), *EMULATION.glob("*.h")]
    text = b"".join(path.read_bytes() for path in sorted({*sources, *headers}))
    return hashlib.sha256(text + repr(FLAGS + WATCHED).encode()).hexdigest()[:16]


def _build(library: Path, kernels: list[Path], others: list[Path]) -> None:
    part = f"{os.getpid()}"  # another process may build the same
    objects = {file: library.with_name(f"{file.name}.{part}.o") for file in [*kernels, *others]}

    def compile_one(file: Path) -> None:
        flags = [*FLAGS, *(WATCHED if file in kernels else BINDINGS)]
        _run("g++", *flags, "-x", "c++", "-c", str(file), "-o", str(objects[file]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, objects))
    unfinished = library.with_name(f"{library.name}.{part}")
    _run("g++", "-shared", *map(str, objects.values()), "-o", str(unfinished))
    unfinished.rename(library)
    for file in objects.values():
        file.unlink()


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, " ".join(command) + "\n" + result.stderr
