"""Builds what there is to build, and says in one line what cannot be."""

import importlib.util
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bench.gpu.place import ROOT, Place

ARCHITECTURE = "QLORA_CUDA_ARCH"
SECONDS = 100.0
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
    """One line for each native module; both at once where both are to be built."""
    yield f"_cuda: {_cuda(place)}"
    yield f"_cpu: {_cpu(place)}"


def _cuda(place: Place) -> str:
    """In place, for this machine's GPU alone."""
    if place.rehearses:
        return "not built, there is no GPU for it"
    if shutil.which("nvcc") is None:
        return "not built, nvcc is not installed"
    major, minor = torch.cuda.get_device_capability()
    return _extensions(place, "90a" if (major, minor) == (9, 0) else f"{major}{minor}")


def _cpu(place: Place) -> str:
    """In place, for this Python; the Triton backend does without it."""
    name = "_cpu" + str(sysconfig.get_config_var("EXT_SUFFIX"))
    if (ROOT / "qlora_kernels" / name).exists():
        return "built already"
    return _extensions(place, "")


def _extensions(place: Place, architecture: str) -> str:
    """All that setup.py builds, _cuda for one architecture, or not at all if that is empty."""
    missing = [p for p in ("pybind11", "setuptools") if importlib.util.find_spec(p) is None]
    if missing:
        return f"not built, {' and '.join(missing)} not installed"
    there = replace(place, variables={**place.variables, ARCHITECTURE: architecture})
    command = ("setup.py", "-q", "build_ext", "--inplace", "--parallel", "2")
    code, output = there.python(*command, seconds=SECONDS)
    place.log(output)
    last = (output.strip().splitlines() or ["no output"])[-1]
    return "built" if code == 0 else f"not built: {last}"
