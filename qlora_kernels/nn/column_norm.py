"""A DoRA layer's norm, computed once per optimizer step and not once per forward.

A version counter of the factors could not tell when it is stale, since fused optimizers do not bump
it: so every step of every torch optimizer empties all caches.
"""

from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from qlora_kernels.formats import Adapter, Base
from qlora_kernels.gpu.availability import capturing
from qlora_kernels.ops.dora_column_norm import dora_column_norm

_FILLED: WeakSet["ColumnNorm"] = WeakSet()


class ColumnNorm:
    """`dora_column_norm(base, adapter)` of one layer, kept until `forget` or an optimizer step.

    A compiled graph reads what is kept and keeps nothing itself, nor does a copy take it along. A
    CUDA graph computes its own: it replays after steps that this process does not see.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._norm: torch.Tensor | None = None
        self._factors: tuple[torch.Tensor, torch.Tensor, float] | None = None

    def of(self, base: Base, adapter: Adapter) -> torch.Tensor:
        """The norm of these factors, [out]."""
        if torch.compiler.is_compiling():
            return dora_column_norm(base, adapter) if self._norm is None else self._norm
        if capturing():
            return dora_column_norm(base, adapter)
        kept = self._norm
        if kept is not None and self._factors is not None:
            a, b, scaling = self._factors  # FSDP and functional_call put others in their place
            if a is adapter.a and b is adapter.b and scaling == adapter.scaling:
                return kept
        with torch.inference_mode(False):  # backward may save it one day
            norm = dora_column_norm(base, adapter)
        if type(norm) is torch.Tensor:  # neither a fake one nor one of a transform
            self._norm, self._factors = norm, (adapter.a, adapter.b, adapter.scaling)
            _FILLED.add(self)
            _watch_optimizers()
        return norm

    def forget(self) -> None:
        """The factors or the base have changed."""
        self._norm = self._factors = None

    def __reduce__(self) -> tuple[type["ColumnNorm"], tuple[()]]:
        return ColumnNorm, ()


@cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_forget_all)


def _forget_all(*_: Any) -> None:
    for norm in list(_FILLED):
        norm.forget()
    _FILLED.clear()
