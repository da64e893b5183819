"""Loads the native modules: the CPU kernels `_cpu` run on the thread pool that torch has started.

`_cpu` calls OpenMP but is linked to no runtime of its own: two of them in one process would each keep a
team of threads and fight for the cores. torch's wheels bundle theirs under a name that varies, so the
one that is mapped already is looked up and its symbols are made visible before `_cpu` is imported.
"""

import ctypes
import importlib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch

from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import FORMATS, dynamic_map

_RUNTIME = re.compile(r"/lib(gomp|omp|iomp5)[^/]*\.so[^/]*$")


def openmp_runtimes() -> list[str]:
    """The OpenMP runtimes mapped into this process, by path: one, if all is well."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if _RUNTIME.search(path))


def cpu() -> Any:
    """The module `_cpu`; ImportError if it cannot be loaded, InputError if QLORA_CPU_ISA is wrong."""
    module, refusal = _load_cpu()
    if module is None:
        raise ImportError(f"native: {refusal}")
    return module


def cpu_refusal() -> str | None:
    """Why the native CPU kernels cannot run here, in one sentence, or None."""
    return _load_cpu()[1]


@cache
def _load_cpu() -> tuple[Any, str | None]:
    mapped = openmp_runtimes()
    try:
        if mapped:
            ctypes.CDLL(mapped[0], mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)
        else:
            ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        module = importlib.import_module("qlora_kernels._cpu")
    except (ImportError, OSError) as error:
        return None, f"the native module does not load (pip install . builds it): {error}"
    try:
        module.isa()  # chooses the instruction set, which QLORA_CPU_ISA may force
    except ValueError as error:
        raise InputError(str(error)) from None
    return module, None


@cache
def tables(format_name: str) -> Any:
    """What the codes of a format mean, as kernels take it."""
    map_values = dynamic_map(torch.device("cpu")).tolist()
    return cpu().Tables(FORMATS[format_name].codebook, map_values)


def weight(q: Any) -> Any:
    """A QuantizedTensor as kernels take it: a view, valid while q lives."""
    return cpu().Weight(q, tables(q.format))
