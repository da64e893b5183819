"""What a launch over many tensors reads: their addresses, sizes and numbers, kept on the GPU.

A table is made once for the same addresses and stays: in a steady state nothing is copied. A new
one, after new gradients or a new learning rate, is copied without waiting for it.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum, auto
from functools import lru_cache
from math import inf, log
from weakref import WeakKeyDictionary

import torch

from qlora_kernels.checks import InputError
from qlora_kernels.formats.blockwise8 import num_blocks
from qlora_kernels.gpu.availability import capturing
from qlora_kernels.ops.adamw.segment import Hyperparameters, Segment

ROWS = 4  # blocks of a segment that a program updates
_TABLES = 64  # that are kept: four a launch, for several optimizers

Row = tuple[int, ...]

_captured: dict[int, torch.Tensor] = {}  # tables that a CUDA graph reads whenever it replays
_rows: "WeakKeyDictionary[Segment, Row]" = WeakKeyDictionary()


class Address(IntEnum):
    """The columns of a segment's addresses; 0 where it has no such tensor."""

    PARAMETER = 0
    GRADIENT = auto()
    EXP_AVG = auto()
    EXP_AVG_SQ = auto()
    EXP_AVG_ABSMAX = auto()
    EXP_AVG_SQ_ABSMAX = auto()
    MASTER = auto()
    STEP = auto()


_READ_ONE_BY_ONE = (Address.EXP_AVG_ABSMAX, Address.EXP_AVG_SQ_ABSMAX, Address.STEP)


class Number(IntEnum):
    """The columns of a segment's numbers, float64."""

    LR = 0
    BETA1 = auto()
    BETA2 = auto()
    EPS = auto()
    WEIGHT_DECAY = auto()
    LOG_BETA1 = auto()
    LOG_BETA2 = auto()


def addresses(segment: Segment, gradient: torch.Tensor) -> Row:
    """A row of addresses; the segment's own are read once."""
    row = _rows.get(segment)
    if row is None or row[Address.GRADIENT] != gradient.data_ptr():
        row = _rows[segment] = _read_addresses(segment, gradient)
    return row


def _read_addresses(segment: Segment, gradient: torch.Tensor) -> Row:
    tensors = (
        segment.parameter, gradient, segment.exp_avg, segment.exp_avg_sq,
        segment.exp_avg_absmax, segment.exp_avg_sq_absmax, segment.master, segment.step,
    )  # fmt: skip
    return tuple(0 if t is None else t.data_ptr() for t in tensors)


def numbers(hyper: Hyperparameters) -> tuple[float, ...]:
    """A row of numbers, with the logarithms that powers are made of."""
    logs = (log(beta) if beta else -inf for beta in (hyper.beta1, hyper.beta2))
    return (*hyper, *logs)


def chunks(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(tensor, its first block) for each program: ROWS blocks of one tensor."""
    for index, size in enumerate(sizes):
        for first in range(0, num_blocks(size), ROWS):
            yield index, first


def aligned(rows: Sequence[Row], sizes: Sequence[int]) -> bool:
    """Whether kernels may read sixteen bytes at a time, and no value is left over."""
    whole = [at for at in Address if at not in _READ_ONE_BY_ONE]
    return not any(size % 16 for size in sizes) and not any(
        row[at] % 16 for row in rows for at in whole
    )


def on_device(
    rows: Sequence[int | tuple[float, ...]], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """The rows as a tensor, made at their first sight.

    Raises InputError while a CUDA graph is captured and they are new: the graph would copy from
    memory of this process that is gone when it replays.
    """
    return _kept(_made(tuple(rows), dtype, device))


def chunk_table(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The rows of `chunks` [programs, 2], int32: far more than tensors, so made once a size."""
    return _kept(_chunk_table(sizes, device))


def _kept(table: torch.Tensor) -> torch.Tensor:
    """The table; for as long as the process lives, where a CUDA graph will read it."""
    if capturing():
        _captured[table.data_ptr()] = table
    return table


@lru_cache(maxsize=_TABLES)
def _chunk_table(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return _copied(tuple(chunks(sizes)), torch.int32, device)


@lru_cache(maxsize=_TABLES)
def _made(
    rows: tuple[int | tuple[float, ...], ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return _copied(rows, dtype, device)


def _copied(
    rows: tuple[int | tuple[float, ...], ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    if capturing():
        raise InputError(
            "adamw_step: a captured step should have the tensors, and numbers, of one before it, "
            "had new ones (zero_grad(set_to_none=False) keeps gradients where they are)"
        )
    host = torch.tensor(rows, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
