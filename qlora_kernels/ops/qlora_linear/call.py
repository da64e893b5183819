"""One call of `qlora_linear` as values, and the flat form in which a torch operator takes it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from qlora_kernels.formats import Adapter, Base
from qlora_kernels.formats.quantized_tensor import SCHEMA as BASE_SCHEMA
from qlora_kernels.formats.quantized_tensor import flatten, unflatten

# Output scale and bias are not in it: they come behind what a kernel's two directions share.
SCHEMA = (
    f"Tensor x, {BASE_SCHEMA}, Tensor? a, Tensor? b, float scaling, float dropout, "
    "str dropout_on, Tensor? seed"
)
_BASE_PARTS = BASE_SCHEMA.count(",") + 1


class Needs(NamedTuple):
    """Which gradients are wanted."""

    x: bool
    a: bool
    b: bool
    bias: bool


class Gradients(NamedTuple):
    """Gradients of x, a, b and bias; None where not wanted."""

    x: torch.Tensor | None
    a: torch.Tensor | None
    b: torch.Tensor | None
    bias: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer as a kernel takes it: base [n, k], bias [n], output_scale float32 [n]."""

    base: Base
    adapter: Adapter | None
    bias: torch.Tensor | None
    seed: torch.Tensor | None
    output_scale: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Call:
    """x [..., k], base [n, k], adapter and the seed of its dropout mask."""

    x: torch.Tensor
    base: Base
    adapter: Adapter | None
    seed: torch.Tensor | None

    def flatten(self) -> tuple[Any, ...]:
        """The arguments of SCHEMA, in order."""
        base = flatten(self.base)
        if self.adapter is None:
            return (self.x, *base, None, None, 0.0, 0.0, "rank", None)
        adapter = self.adapter
        return (
            self.x,
            *base,
            adapter.a,
            adapter.b,
            adapter.scaling,
            adapter.dropout,
            adapter.dropout_on,
            self.seed,
        )

    @staticmethod
    def unflatten(x: torch.Tensor, *rest: Any) -> "Call":
        """The call that `flatten` took apart."""
        base = unflatten(*rest[:_BASE_PARTS])
        a, b, scaling, dropout, dropout_on, seed = rest[_BASE_PARTS:]
        adapter = None if a is None else Adapter(a, b, scaling, dropout, dropout_on)
        return Call(x, base, adapter, seed)

    @property
    def rows(self) -> torch.Tensor:
        """x as a matrix [m, k]."""
        return self.x.reshape(-1, self.x.shape[-1])

    @property
    def out_features(self) -> int:
        """n."""
        return self.base.shape[0]
