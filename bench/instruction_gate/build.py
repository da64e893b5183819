"""Builds the driver and the CPU kernels with the flags of setup.py; kept by what it was made of."""

import ast
import hashlib
import os
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import NF4, dynamic_map, scale_ratios

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("driver.cpp")
COMPILER = os.environ.get("CXX", "g++")


def compiler() -> str:
    """`g++ 12.2.0`: counts of another one are not comparable."""
    if shutil.which(COMPILER) is None:
        raise InputError(f"gate: {COMPILER} should be installed, was not found")
    command = [COMPILER, "-dumpfullversion", "-dumpversion"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return f"{Path(COMPILER).name} {done.stdout.strip()}"


def build() -> Path:
    """The folder with `driver`, `tables` and an object file per source."""
    sources = [*sorted(ROOT.glob("csrc/cpu/*.cpp")), DRIVER]
    headers = [p for p in sorted(ROOT.glob("csrc/c[op]*/*")) if p.suffix in (".h", ".inl")]
    text = b"".join(path.read_bytes() for path in [*sources, *headers])
    digest = hashlib.sha256(text + repr((compiler(), flags())).encode()).hexdigest()[:12]
    folder = ROOT / "build/bench-gate" / digest
    if not (folder / "driver").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tables").write_bytes(tables())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: _compiled(source, folder), sources))
        _run(COMPILER, "-fopenmp", *map(str, objects), "-o", str(folder / "driver"))
    return folder


def flags() -> list[str]:
    """COMPILE_FLAGS of setup.py, which cannot be imported: it would build."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILE_FLAGS":
            found: list[str] = ast.literal_eval(node.value)
            return [*found, "-std=c++20", "-fPIC"]
    raise InputError("gate: setup.py should assign COMPILE_FLAGS, did not")


def tables() -> bytes:
    """What driver.cpp's Tables are: the values that Python keeps once for all."""
    cpu = torch.device("cpu")
    maps = [*dynamic_map(cpu).tolist(), *dynamic_map(cpu, signed=False).tolist()]
    found = [*NF4, *maps, *scale_ratios("nf4")]
    return struct.pack(f"{len(found)}f", *found)


def _compiled(source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    _run(COMPILER, *flags(), "-c", str(source), "-o", str(target))
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise InputError(f"gate: the kernels should compile, failed: {reason}")
