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
    each call, whose memory must be free after it. A compiled graph keeps nothing, nor does a copy
    or a pickle take along what is kept.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        # One value, since threads may share a layer, and replicas of it share this object.
        self._kept: tuple[tuple[Any, ...], Linear] | None = None
        self._seen: Sequence[ref[torch.Tensor]] = ()

    def of(self, parts: tuple[Any, ...], make: Callable[[], Linear]) -> Linear:
        """What `make` has made of these parts."""
        if torch.compiler.is_compiling():
            return make()
        kept = self._kept
        if kept is not None and all(map(is_, parts, kept[0])):
            return kept[1]
        linear = make()
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        self._kept = (parts, linear) if self._came_before(tensors) else None
        self._seen = [ref(tensor) for tensor in tensors]
        return linear

    def _came_before(self, tensors: Sequence[torch.Tensor]) -> bool:
        seen = self._seen
        return len(seen) == len(tensors) and all(
            known() is tensor for known, tensor in zip(seen, tensors, strict=True)
        )

    def __reduce__(self) -> tuple[type["KeptLinear"], tuple[()]]:
        return KeptLinear, ()
