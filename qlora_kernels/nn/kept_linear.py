"""A layer as its op takes it, made once and not once per call: the op remembers what it checked."""

from collections.abc import Callable
from operator import is_
from typing import Any

import torch

from qlora_kernels.ops import Linear


class KeptLinear:
    """A layer's `Linear`, kept as long as it consists of the very same parts.

    A compiled graph keeps nothing, nor does a copy or a pickle take along what is kept.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._parts: tuple[Any, ...] = ()
        self._linear: Linear | None = None

    def of(self, parts: tuple[Any, ...], make: Callable[[], Linear]) -> Linear:
        """What `make` has made of these parts."""
        if torch.compiler.is_compiling():
            return make()
        if self._linear is None or not all(map(is_, parts, self._parts)):
            self._parts, self._linear = parts, make()
        return self._linear

    def __reduce__(self) -> tuple[type["KeptLinear"], tuple[()]]:
        return KeptLinear, ()
