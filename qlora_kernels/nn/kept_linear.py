"""A layer as its op takes it, made once and not once per call: the op remembers what it checked."""

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any
from weakref import ref

import torch

from qlora_kernels.ops import Linear


class KeptLinear:
    """A layer's `Linear`, kept as long as it consists of the very same parts.

    It is kept from the second time on that they come: offloading gives a layer other tensors for
    each call, whose memory must be free after it. A copy or a pickle takes along nothing.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        # One value, since threads may share a layer, and replicas of it share this object.
        self._kept: tuple[tuple[Any, ...], Linear] | None = None
        self._seen: Sequence[ref[torch.Tensor]] = ()

    def of(self, parts: tuple[Any, ...], make: Callable[[], Linear]) -> Linear:
        """What `make` has made of these parts."""
        kept = self._kept
        if kept is not None and all(map(is_, parts, kept[0])):
            return kept[1]
        linear = make()
        tensors = _tensors(parts)
        before = [known() for known in self._seen] if kept is None else _tensors(kept[0])
        if len(before) == len(tensors) and all(map(is_, before, tensors)):
            self._kept, self._seen = (parts, linear), ()
        else:
            self._kept, self._seen = None, [ref(tensor) for tensor in tensors]
        return linear

    def forget(self) -> None:
        """Refer to no tensor, as torch wants it of those that it swaps for others."""
        self._kept, self._seen = None, ()

    def __reduce__(self) -> tuple[type["KeptLinear"], tuple[()]]:
        return KeptLinear, ()


def _tensors(parts: tuple[Any, ...]) -> list[torch.Tensor]:
    return [part for part in parts if isinstance(part, torch.Tensor)]
