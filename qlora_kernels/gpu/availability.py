"""When the Triton backend can run: on an NVIDIA GPU, or interpreted on CPU tensors."""

import importlib.util
import os
from functools import cache

import torch

OLDEST = (8, 0)  # Ampere: the first with bf16 in its matrix instruction and asynchronous copies


@cache
def interpreting() -> bool:
    """Whether TRITON_INTERPRET=1 runs kernels as Python on CPU tensors; read once."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@cache
def triton_refusal() -> str | None:
    """Why Triton kernels cannot run here, in one sentence, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if interpreting():
        return None
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "there is no NVIDIA GPU, and TRITON_INTERPRET=1 is not set"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability}, below {OLDEST}"
    return None


@cache
def architecture(device: torch.device) -> int:
    """90 for sm_90; so it is too when interpreting, where it only chooses plans."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def capturing() -> bool:
    """Whether a CUDA graph is being captured, when nothing may wait for the GPU."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def misplaced(name: str, tensor: torch.Tensor) -> str | None:
    """Refuse a tensor that kernels cannot reach: on the GPU, or on the CPU when interpreting."""
    if tensor.device.type == ("cpu" if interpreting() else "cuda"):
        return None
    return f"{name} is on {tensor.device}"
