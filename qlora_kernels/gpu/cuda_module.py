"""The native module `_cuda`: whether its kernels can run here, and how they take tensors.

They take addresses, sizes and a stream as integers, so that one build serves every torch. Tests
replace `loaded` by the same kernels compiled for the CPU (tests/cuda/emulation).
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import FORMATS, dynamic_map
from qlora_kernels.gpu.availability import OLDEST

_ELEMENTS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Loaded:
    """The module or None, the kind of device whose memory it reaches, and why it cannot run."""

    module: Any
    device: str
    refusal: str | None


@cache
def loaded() -> Loaded:
    """`qlora_kernels._cuda`, if it was built and there is a GPU for it."""
    try:
        module = importlib.import_module("qlora_kernels._cuda")
    except ImportError as error:
        return Loaded(None, "cuda", f"the module _cuda does not load (setup.py builds it): {error}")
    if not hasattr(module, "architectures"):
        stale = "_cuda was built from older sources (pip install --no-deps --editable . builds it)"
        return Loaded(module, "cuda", stale)
    return Loaded(module, "cuda", gpu_refusal(module))


def gpu_refusal(module: Any) -> str | None:
    """Why the kernels of a module that loads cannot run on this machine, in one sentence, or None.

    The driver is asked first: beside one that is too old, torch finds no GPU. One of the same major
    version runs what an nvcc of any minor version compiled (CUDA's minor version compatibility).
    """
    driver, runtime = module.driver_version(), module.runtime_version()
    if 0 < driver // 1000 < runtime // 1000:
        return (
            f"the driver is for CUDA {_version(driver)}, older than the CUDA {_version(runtime)} "
            "that _cuda was built with (a newer driver, or a build by an older nvcc, runs it)"
        )
    if driver == 0 or torch.version.cuda is None or not torch.cuda.is_available():
        return "there is no NVIDIA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability}, below {OLDEST}"
    built = [divmod(number // 10, 10) for number in module.architectures()]
    if not _has_code(capability, built):
        names = ", ".join(f"sm_{major}{minor}" for major, minor in built)
        own = "".join(map(str, capability))
        return f"_cuda was built for {names}, the GPU is sm_{own} (QLORA_CUDA_ARCH={own} builds it)"
    return None


def _has_code(capability: tuple[int, int], built: Sequence[tuple[int, int]]) -> bool:
    """Machine code runs on later GPUs of its generation, the last one's PTX on all later GPUs."""
    major, minor = capability
    runs = any(own[0] == major and own[1] <= minor for own in built)
    return runs or capability >= max(built)


def _version(number: int) -> str:
    """As CUDA numbers its versions: 13000 is 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"


def cuda_refusal() -> str | None:
    """Why CUDA kernels cannot run here, in one sentence, or None."""
    return loaded().refusal


def kernels() -> Any:
    """The module `_cuda`; ImportError if it is not there."""
    if loaded().module is None:
        raise ImportError(f"cuda: {loaded().refusal}")
    return loaded().module


def misplaced(name: str, tensor: torch.Tensor) -> str | None:
    """Refuse a tensor whose memory or dtype kernels cannot read."""
    if tensor.dtype not in _ELEMENTS:
        return f"{name} is {tensor.dtype}"
    return None if tensor.device.type == loaded().device else f"{name} is on {tensor.device}"


@contextmanager
def stream_of(tensor: torch.Tensor) -> Iterator[int]:
    """The stream that torch uses for the device of a tensor, which is current meanwhile."""
    if tensor.device.type != "cuda":
        yield 0
        return
    with torch.cuda.device(tensor.device):
        yield torch.cuda.current_stream().cuda_stream


def element(tensor: torch.Tensor) -> Any:
    """The dtype of a tensor as kernels name it."""
    return getattr(kernels().ElementType, _ELEMENTS[tensor.dtype])


def matrix(tensor: torch.Tensor) -> tuple[int, Any, int, int]:
    """A contiguous matrix as kernels take it: address, dtype, rows, columns."""
    return tensor.data_ptr(), element(tensor), *tensor.shape


def weight(q: QuantizedTensor, codebook: Sequence[float] | None = None) -> Any:
    """A QuantizedTensor as kernels take it: addresses, valid while q lives.

    codebook: the values of 4-bit codes, where they are not to be the format's own.
    """
    nested = [0, 0, 0]
    if q.nested_absmax is not None and q.nested_offset is not None:
        parts = (q.nested_absmax, dynamic_map(q.device), q.nested_offset)
        nested = [part.data_ptr() for part in parts]
    k = q.shape[-1] if q.shape else 1
    return kernels().Weight(
        q.codes.data_ptr(),
        [q.scales.data_ptr(), *nested],
        FORMATS[q.format].codebook if codebook is None else codebook,
        [q.numel() // k if k else 0, k],
        q.block_size,
    )
