"""The dropout mask that every kernel uses, regenerated instead of stored.

    mask[i] = [word(i) >= floor(p 2^32)] / (1 - p)
    word(i) = first word of Philox4x32-10, key = seed, counter = i (the flat element index)

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from collections.abc import Callable, Sequence

import torch

from qlora_kernels.checks import InputError, check_probability
from qlora_kernels.dispatch import Room, define
from qlora_kernels.ops.dropout_mask import native_kernel, reference, triton_kernel

ROOM = Room("dropout_mask", native_kernel, triton_kernel, reference)


def dropout_mask(seed: int | torch.Tensor, shape: Sequence[int], p: float) -> torch.Tensor:
    """`[word(i) >= floor(p 2^32)] / (1 - p)`, float32 of `shape`: 0 where dropped, 1 / (1 - p)
    elsewhere.

    seed: an integer of 64 bits, or the int64 tensor [] that an op was given; the mask is on its
    device. The same on every backend. Raises InputError for p outside [0, 1)
    and for a seed that is neither.
    """
    check_probability("dropout_mask", "p", p)
    return _dropout_mask(seed_tensor("dropout_mask", seed), list(shape), p)


def seed_tensor(
    op: str, seed: int | torch.Tensor, device: torch.device | None = None
) -> torch.Tensor:
    """The seed as an operator takes it, int64 []; InputError for anything that does not fit there.

    Not torch.as_tensor: compiled with dynamic shapes it loses an integer's upper half. Filled where
    it is, since a copy from the host would wait for the GPU, and no CUDA graph could hold it.
    """
    if not isinstance(seed, torch.Tensor):
        if not -(2**63) <= seed < 2**63:
            raise InputError(f"{op}: seed should be an integer of 64 bits, was {seed}")
        return torch.full((), seed, dtype=torch.int64, device=device)
    if seed.dtype != torch.int64 or seed.dim():
        was = f"{seed.dtype} {list(seed.shape)}"
        raise InputError(f"{op}: seed should be an integer or torch.int64 [], was {was}")
    return seed.to(device)


def _run(seed: torch.Tensor, shape: Sequence[int], p: float) -> torch.Tensor:
    out = _fake(seed, shape, p)
    ROOM.choose(seed, out, p).dropout_mask(seed, out, p)
    return out


def _fake(seed: torch.Tensor, shape: Sequence[int], p: float) -> torch.Tensor:
    return seed.new_empty(shape, dtype=torch.float32)


_dropout_mask: Callable[..., torch.Tensor] = define(
    "dropout_mask(Tensor seed, SymInt[] shape, float p) -> Tensor", _run, _fake
)
