"""Adapters of a peft layer merged into its quantized base, measured, and taken out exactly.

    W' = W + sum of (W_i - W),   W_i = W + s B A, or DoRA's g (W + s B A), of each merged adapter

is computed from the base as it was before the first merge, whatever was merged since.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge

from qlora_kernels.checks import InputError
from qlora_kernels.formats import Base
from qlora_kernels.nn.merging import (
    MIN_RETAINED,
    dense_weight,
    held_apart,
    merged_weight,
    rounded_to_base,
    set_base,
)

if TYPE_CHECKING:
    from qlora_kernels.integrations.peft.layer import QuantizedLoraLinear


@dataclass(frozen=True, eq=False)
class Unmerged:
    """A base layer as it was: its codes and scales, and its bias."""

    base: Base
    bias: torch.Tensor | None


@torch.no_grad()
def merge(layer: "QuantizedLoraLinear", safe: bool, names: list[str] | None) -> None:
    """`QuantizedLoraLinear.merge`."""
    added = [name for name in check_adapters_to_merge(layer, names) if name in layer.lora_A]
    if not added:
        return
    inner = layer.base_layer
    every = [*layer.merged_adapters, *added]
    bias = inner._parameters["bias"]
    before = layer.unmerged or Unmerged(
        held_apart(inner.base), None if bias is None else bias.detach().clone()
    )
    exact = _merged(layer, before.base, every)
    if safe and not exact.isfinite().all():
        raise InputError(f"merge: {', '.join(added)} should be finite, was not")
    made, loss = rounded_to_base(before.base, exact)
    if loss.retained < MIN_RETAINED:
        _tell(loss.retained, safe)
    _merge_biases(layer, before, every)
    set_base(inner, made)
    layer.unmerged, layer.merge_loss = before, loss
    layer.merged_adapters += added


@torch.no_grad()
def unmerge(layer: "QuantizedLoraLinear") -> None:
    """`QuantizedLoraLinear.unmerge`."""
    if layer.unmerged is None:
        warnings.warn("Already unmerged. Nothing to do.", stacklevel=3)  # peft's own words
        return
    set_base(layer.base_layer, layer.unmerged.base)
    if layer.unmerged.bias is not None:
        layer.base_layer.bias.data.copy_(layer.unmerged.bias)
    layer.unmerged = layer.merge_loss = None
    layer.merged_adapters.clear()


def _merged(layer: "QuantizedLoraLinear", base: Base, names: list[str]) -> torch.Tensor:
    first, *others = names
    exact = merged_weight(base, layer.adapter(first))
    for name in others:
        exact += merged_weight(base, layer.adapter(name)) - dense_weight(base)
    return exact


def _merge_biases(layer: "QuantizedLoraLinear", before: Unmerged, names: list[str]) -> None:
    added = [layer.scaling[n] * layer.lora_B[n].bias for n in names if layer.lora_bias[n]]
    if not added:
        return
    if before.bias is None:
        raise InputError("merge: a base layer should have a bias to merge lora_bias, has none")
    layer.base_layer.bias.data.copy_(before.bias + torch.stack(added).sum(dim=0))


def _tell(retained: float, safe: bool) -> None:
    if safe:
        raise InputError(
            f"merge: at least {MIN_RETAINED:.0%} of the update should survive the base's format, "
            f"{retained:.1%} would: keep the adapter, or merge into 16 bits (qk.requantize(layer, "
            "'none') before)"
        )
    warnings.warn(
        f"merge: less than {MIN_RETAINED:.0%} of an update survives the base's format "
        "(layer.merge_loss has the share); keep the adapter, or merge into 16 bits: "
        "qk.requantize(layer, 'none') before",
        stacklevel=4,
    )
