"""Philox dropout masks by the native CPU kernels."""

import torch

from qlora_kernels import native

BACKEND = "cpu"


def refuses(seed: torch.Tensor, out: torch.Tensor, p: float) -> str | None:
    """Writes to the CPU."""
    return None if out.device.type == "cpu" else f"out is on {out.device}"


def dropout_mask(seed: torch.Tensor, out: torch.Tensor, p: float) -> None:
    """`out[i] = (word(i) >= floor(p 2^32)) / (1 - p)`."""
    native.cpu().dropout_mask(seed, p, out, torch.get_num_threads())
