"""One layer of a `qlora_linear` call as values, and the flat form that a torch operator takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.formats.quantized_tensor import SCHEMA as BASE_SCHEMA
from qlora_kernels.formats.quantized_tensor import flatten, unflatten

SCHEMA = (
    f"{BASE_SCHEMA}, Tensor? a, Tensor? b, float scaling, float dropout, str dropout_on, "
    "Tensor? seed, Tensor? output_scale, Tensor? bias"
)
NAMES = [argument.split()[-1] for argument in SCHEMA.split(", ")]
_BASE_PARTS = NAMES.index("a")


class Needs(NamedTuple):
    """Which gradients are wanted of a kernel."""

    x: bool
    a: bool
    b: bool
    bias: bool
    output_scale: bool = False


class Gradients(NamedTuple):
    """Gradients of x, a, b, bias and output_scale; None where not wanted."""

    x: torch.Tensor | None
    a: torch.Tensor | None
    b: torch.Tensor | None
    bias: torch.Tensor | None
    output_scale: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """All but x: base [n, k], adapter, the seed of its mask, output_scale float32 [n], bias [n]."""

    base: Base
    adapter: Adapter | None
    seed: torch.Tensor | None = None
    output_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        """n."""
        return self.base.shape[0]

    NUM_TENSORS: ClassVar = 7

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What backward reads of a layer with a quantized base; see `constants`."""
        kept: tuple[torch.Tensor | None, ...] | None = self.__dict__.get("_tensors")
        if kept is None:
            base, adapter = self.base, self.adapter
            assert isinstance(base, QuantizedTensor)
            codes = (base.codes, base.scales, base.nested_absmax, base.nested_offset)
            factors = (None, None) if adapter is None else (adapter.a, adapter.b)
            kept = self.__dict__["_tensors"] = (*codes, *factors, self.seed)
        return kept

    @property
    def constants(self) -> tuple[Any, ...]:
        """What `tensors` leaves out."""
        base, adapter = self.base, self.adapter
        assert isinstance(base, QuantizedTensor)
        facts = (base.shape, base.dtype, base.format, base.block_size)
        if adapter is None:
            return (*facts, 0.0, 0.0, "rank")
        return (*facts, adapter.scaling, adapter.dropout, adapter.dropout_on)

    @staticmethod
    def of(tensors: Sequence[Any], constants: Sequence[Any]) -> "Layer":
        """The layer of these parts."""
        *codes, a, b, seed = tensors
        base = QuantizedTensor(*codes, *constants[:4])
        return Layer(base, None if a is None else Adapter(a, b, *constants[4:]), seed)

    def flatten(self) -> tuple[Any, ...]:
        """The arguments of SCHEMA, in order."""
        adapter = self.adapter
        factors: tuple[Any, ...] = (None, None, 0.0, 0.0, "rank")
        if adapter is not None:
            scaling, dropout, dropout_on = adapter.scaling, adapter.dropout, adapter.dropout_on
            factors = (adapter.a, adapter.b, scaling, dropout, dropout_on)
        return (*flatten(self.base), *factors, self.seed, self.output_scale, self.bias)

    @staticmethod
    def unflatten(*arguments: Any) -> "Layer":
        """The layer that `flatten` took apart."""
        base = unflatten(*arguments[:_BASE_PARTS])
        a, b, scaling, dropout, dropout_on, *rows = arguments[_BASE_PARTS:]
        adapter = None if a is None else Adapter(a, b, scaling, dropout, dropout_on)
        return Layer(base, adapter, *rows)


def layers_of(arguments: tuple[Any, ...]) -> list[Layer]:
    """The layers whose flat forms stand one behind the other."""
    width = len(NAMES)
    starts = range(0, len(arguments), width)
    return [Layer.unflatten(*arguments[start : start + width]) for start in starts]
