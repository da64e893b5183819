"""Loads the native modules: the CPU kernels `_cpu` run on the thread pool that torch has started.

`_cpu` calls OpenMP but is linked to no runtime of its own: two of them in one process would each
keep a team of threads and fight for the cores. torch's wheels bundle theirs under a name that
varies, so the one whose functions torch calls is looked up, and made visible before the import.
"""

import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from typing import Any
from weakref import ref

import torch

from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import FORMATS, dynamic_map

# How pybind11 and Python say that a function of the module is another one, or is not there.
_MARKS_OF_STALE = (
    "incompatible function arguments",
    "incompatible constructor arguments",
    "'qlora_kernels._cpu' has no attribute",
)


def cpu() -> Any:
    """The module `_cpu`; ImportError if it does not load, InputError if QLORA_CPU_ISA is wrong."""
    module, refusal = _load_cpu()
    if module is None:
        raise ImportError(f"native: {refusal}")
    return module


def cpu_refusal() -> str | None:
    """Why the native CPU kernels cannot run here, in one sentence, or None."""
    return _load_cpu()[1]


@cache
def tables(format_name: str, ratios: tuple[float, ...] = ()) -> Any:
    """What the codes of a format mean, as kernels take it, and the scales that a search tries."""
    map_values = dynamic_map(torch.device("cpu")).tolist()
    return cpu().Tables(FORMATS[format_name].codebook, map_values, ratios)


@cache
def state_maps() -> Any:
    """What the codes of 8-bit optimizer states mean, as kernels take it."""
    device = torch.device("cpu")
    return cpu().StateMaps(dynamic_map(device).tolist(), dynamic_map(device, False).tolist())


# By id(q), until q is gone: looked at once for each tensor that is used again, as a layer's is.
_weights: dict[int, tuple[Any, ref[Any]]] = {}


def weight(q: Any) -> Any:
    """A QuantizedTensor as kernels take it; each call reads anew where its memory is."""
    key = id(q)
    known = _weights.get(key)
    if known is None:
        until_gone = ref(q, lambda _: _weights.pop(key, None))
        known = _weights[key] = cpu().Weight(q, tables(q.format)), until_gone
    return known[0]


def known_weight(q: Any) -> Any | None:
    """`weight(q)` of a QuantizedTensor that kernels have taken before."""
    known = _weights.get(id(q))
    return None if known is None else known[0]


def telling_stale(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which calls native kernels; where these are older than the Python that calls them,
    one sentence instead of pybind11's page about arguments.
    """

    @wraps(run)
    def running(*arguments: Any, **named: Any) -> Any:
        try:
            return run(*arguments, **named)
        except (TypeError, AttributeError) as error:
            if _is_stale() or any(mark in str(error) for mark in _MARKS_OF_STALE):
                raise InputError(
                    "native: qlora_kernels._cpu should be built from the sources beside it, was "
                    "built from others (rebuild it: pip install --no-deps --editable .)"
                ) from error
            raise

    return running


def _is_stale() -> bool:
    """Whether the module is older than its sources, where these lie beside the package."""
    module = _load_cpu()[0]
    sources = (Path(__file__).parents[1] / "csrc").rglob("*")
    return module is not None and any(
        file.stat().st_mtime > Path(module.__file__).stat().st_mtime
        for file in sources
        if file.parent.name != "cuda" and not file.stem.startswith("cuda")
    )


@cache
def _load_cpu() -> tuple[Any, str | None]:
    try:
        _show_openmp_of_torch()
        module = importlib.import_module("qlora_kernels._cpu")
    except (ImportError, OSError) as error:
        return None, f"the native module does not load (`pip install .` builds it): {error}"
    try:
        module.isa()  # chooses the instruction set, which QLORA_CPU_ISA may force
    except ValueError as error:
        raise InputError(str(error)) from None
    return module, None


def _show_openmp_of_torch() -> None:
    """Give its symbols to modules loaded later; beside a torch without OpenMP, the system's."""
    library = Path(torch.__file__).parent / "lib/libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD).omp_get_max_threads
    except AttributeError:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        return
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    path = next(path for first, last, path in mappings() if first <= address < last)
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)


def mappings() -> Iterator[tuple[int, int, str]]:
    """(first address, last address + 1, path) of each file mapped into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, path = line.partition(" ")
        first, last = (int(address, 16) for address in addresses.split("-"))
        if "/" in path:
            yield first, last, path[path.index("/") :]
