"""Builds what there is to build, and says in one line what cannot be."""

import importlib.util
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from bench.gpu.place import ROOT, Place

WHEELS = "wheels"  # in the root, ignored by git: packages for a machine without network


def carried_packages(place: Place) -> Path | None:
    """Unpack `wheels/*.whl`, without network or dependencies; None if there are none."""
    wheels = sorted(map(str, (ROOT / WHEELS).glob("*.whl")))
    if not wheels:
        return None
    folder = ROOT / "build/wheels"
    options = ["--no-index", "--no-deps", "--upgrade", "--quiet", "--target", str(folder)]
    code, output = place.python("-m", "pip", "install", *options, *wheels)
    if code:
        raise RuntimeError(f"pip: should unpack {WHEELS}/, failed: {output.strip()}")
    return folder


def build(place: Place) -> Iterator[str]:
    """One line for each native module."""
    yield f"_cuda: {_cuda()}"
    yield f"_cpu: {_cpu(place)}"


def _cuda() -> str:
    if not any((ROOT / "csrc/cuda").glob("*.cu")):
        return "nothing to build, csrc/cuda holds no kernels"
    if shutil.which("nvcc") is None:
        return "not built, nvcc is not installed"
    return "setup.py does not build csrc/cuda yet"


def _cpu(place: Place) -> str:
    """In place, for this Python; the Triton backend does without it."""
    name = "_cpu" + str(sysconfig.get_config_var("EXT_SUFFIX"))
    if (ROOT / "qlora_kernels" / name).exists():
        return "built already"
    missing = [p for p in ("pybind11", "setuptools") if importlib.util.find_spec(p) is None]
    if missing:
        return f"not built, {' and '.join(missing)} not installed: CPU comparisons use plain torch"
    code, output = place.python("setup.py", "-q", "build_ext", "--inplace", seconds=180)
    last = (output.strip().splitlines() or ["no output"])[-1]
    return "built" if code == 0 else f"not built: {last}"
