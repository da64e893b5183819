"""Tensors between guard bytes: a kernel that writes beside its output is caught."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import torch

GUARD = 256  # bytes on either side: more than the widest vector
PATTERN = 0xA5


@dataclass
class Guarded:
    """Hands out poisoned tensors; an offset of one element makes them as unaligned as views are."""

    buffers: list[torch.Tensor] = field(default_factory=list)

    def empty(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, offset: int = 0
    ) -> torch.Tensor:
        skip = GUARD + offset * dtype.itemsize
        size = prod(shape) * dtype.itemsize
        buffer = torch.full((skip + size + GUARD,), PATTERN, dtype=torch.uint8)
        inside = buffer[skip : skip + size]
        inside.fill_(0xFF)  # NaN in every float type
        self.buffers.append(torch.cat([buffer[:skip], buffer[skip + size :]]))
        self.buffers.append(buffer)
        return inside.view(dtype).view(shape)

    def check(self) -> None:
        for before, buffer in zip(self.buffers[::2], self.buffers[1::2], strict=True):
            head = buffer[: before.numel() - GUARD]
            around = torch.cat([head, buffer[-GUARD:]])
            assert torch.equal(before, around), "a kernel wrote outside its output"


@contextmanager
def guarded() -> Iterator[Guarded]:
    memory = Guarded()
    yield memory
    memory.check()
