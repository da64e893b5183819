"""The dropout mask that every kernel uses, regenerated instead of stored.

    mask[i] = [word(i) >= floor(p 2^32)] / (1 - p)
    word(i) = first word of Philox4x32-10, key = seed, counter = i (the flat element index)

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from collections.abc import Callable, Sequence

import torch

from qlora_kernels.checks import check_probability
from qlora_kernels.dispatch import Room, define
from qlora_kernels.ops.dropout_mask import native_kernel, reference

ROOM = Room("dropout_mask", native_kernel, reference)


def dropout_mask(seed: int | torch.Tensor, shape: Sequence[int], p: float) -> torch.Tensor:
    """`[word(i) >= floor(p 2^32)] / (1 - p)`, float32 of `shape`: 0 where dropped, 1 / (1 - p)
    elsewhere.

    seed: an integer of 64 bits, or the int64 tensor [] that an op was given; the mask is on its
    device. The same on every backend. Raises InputError for p outside [0, 1).
    """
    check_probability("dropout_mask", "p", p)
    return _dropout_mask(torch.as_tensor(seed, dtype=torch.int64), list(shape), p)


def _run(seed: torch.Tensor, shape: Sequence[int], p: float) -> torch.Tensor:
    out = _fake(seed, shape, p)
    ROOM.choose(seed, out, p).dropout_mask(seed, out, p)
    return out


def _fake(seed: torch.Tensor, shape: Sequence[int], p: float) -> torch.Tensor:
    return seed.new_empty(shape, dtype=torch.float32)


_dropout_mask: Callable[..., torch.Tensor] = define(
    "dropout_mask(Tensor seed, SymInt[] shape, float p) -> Tensor", _run, _fake
)
