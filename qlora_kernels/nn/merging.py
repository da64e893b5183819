"""Adapters merged into the base weights: `W' = W + s B A`, for DoRA `g (W + s B A)`.

Into 16 bits that is exact but for one rounding. Into 4 bits the update meets the grid that the base
already sits on: what is smaller than half a step of it rounds away, so what is left is measured.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.nn.embeddings import adapted_embeddings, embedding_parameters
from qlora_kernels.nn.qlora_embedding import QLoRAEmbedding
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.surgery import quantized_layers
from qlora_kernels.nn.token_rows import TokenHead
from qlora_kernels.ops import dequantize, quantize

MIN_RETAINED = 0.9


@dataclass(frozen=True)
class MergeLoss:
    """What rounding did to an update dW, when dW' is what arrived.

    retained: `<dW', dW> / |dW|^2`, 1 if nothing was lost; noise: `|dW' - dW| / |dW|`, 0 if nothing
    was added; energy: `|dW|^2`. An update of zero loses nothing.
    """

    retained: float
    noise: float
    energy: float


def merged_weight(base: Base, adapter: Adapter) -> torch.Tensor:
    """`W + s B A`, or with a magnitude m `m / |W + s B A| (W + s B A)` per row: dense, float32.

    A row of norm zero stays as it is.
    """
    merged = dense_weight(base)
    merged.addmm_(adapter.b.detach().float(), adapter.a.detach().float(), alpha=adapter.scaling)
    if adapter.magnitude is not None:
        norm = merged.norm(dim=1)
        gain = torch.where(norm > 0, adapter.magnitude.detach().float() / norm, 1.0)
        merged.mul_(gain[:, None])
    return merged


def merge_into(base: Base, adapter: Adapter) -> tuple[Base, MergeLoss]:
    """The merged weight in the format of the base, and what that cost.

    A quantized base is quantized again with its own format, block size and double quantization; a
    dense one is rounded to its dtype. A base without an update is returned as it is.
    """
    return rounded_to_base(base, merged_weight(base, adapter))


def rounded_to_base(base: Base, exact: torch.Tensor) -> tuple[Base, MergeLoss]:
    """`exact`, float32, in the format of the base, as `merge_into` does it."""
    before = dense_weight(base)
    if torch.equal(before, exact):
        return base, MergeLoss(1.0, 0.0, 0.0)
    merged = _in_format_of(base, exact)
    update, arrived = exact - before, dense_weight(merged) - before
    energy = _dot(update, update)
    noise = _dot(arrived - update, arrived - update)
    return merged, MergeLoss(_dot(arrived, update) / energy, (noise / energy) ** 0.5, energy)


def retained(losses: dict[str, MergeLoss]) -> float:
    """The share of all updates together that arrived: each layer counts by its energy."""
    energy = sum(loss.energy for loss in losses.values())
    return sum(loss.retained * loss.energy for loss in losses.values()) / energy if energy else 1.0


def merge_adapter(
    model: nn.Module, min_retained: float = MIN_RETAINED, force: bool = False
) -> dict[str, MergeLoss]:
    """Merge every adapter into its layer's base, in the base's format; returns layer -> loss.

    The layers then compute what plain quantized ones do; embeddings and heads get their factors and
    rows of tokens too. The bases that they had are kept, packed, for `unmerge_adapter`. Raises
    InputError, before anything is changed, for a model without adapters or merged already, and
    where less than `min_retained` of the update would be left (unless `force`).
    """
    every = quantized_layers(model)
    embeddings = adapted_embeddings(model)
    merged = [name for name, layer in every.items() if layer.unmerged_base is not None]
    merged += [name for name, m in embeddings.items() if m.unmerged_weight is not None]
    if merged:
        raise InputError(f"merge_adapter: model should be unmerged, {merged[0]} is merged")
    layers = {n: m for n, m in every.items() if m.adapter is not None}
    if not layers and not embedding_parameters(model):
        raise InputError("merge_adapter: model should have adapters, has none")
    made, losses = {}, {}
    for name, layer in layers.items():
        assert layer.adapter is not None
        made[name], losses[name] = merge_into(layer.base, layer.adapter)
    weights = {name: merged_embedding(m) for name, m in embeddings.items()}
    check_retained("merge_adapter", losses, min_retained, force)
    for name, layer in layers.items():
        layer.unmerged_base = held_apart(layer.base)
        set_base(layer, made[name])
    for name in weights:  # all before the first is replaced: a tied head's is the embedding's
        embeddings[name].unmerged_weight = embeddings[name].weight.detach()
    for name, weight in weights.items():
        embeddings[name].weight.data = weight
    return losses


def unmerge_adapter(model: nn.Module) -> None:
    """Put back the bases that `merge_adapter` replaced, bit for bit.

    Raises InputError for a model without merged layers.
    """
    layers = [m for m in quantized_layers(model).values() if m.unmerged_base is not None]
    embeddings = adapted_embeddings(model).values()
    if not layers and all(module.unmerged_weight is None for module in embeddings):
        raise InputError("unmerge_adapter: model should be merged, is not")
    for layer in layers:
        assert layer.unmerged_base is not None
        set_base(layer, layer.unmerged_base)
        layer.unmerged_base = None
    for module in embeddings:
        if module.unmerged_weight is not None:
            module.weight.data, module.unmerged_weight = module.unmerged_weight, None


def merged_embedding(module: QLoRAEmbedding | TokenHead) -> torch.Tensor:
    """`W + s (B A)^T`, then the rows of tokens: in W's dtype; W itself without both."""
    weight: torch.Tensor = module.weight.detach()
    if isinstance(module, QLoRAEmbedding) and module.adapter is not None:
        weight = merged_weight(weight, module.adapter).to(weight.dtype)
    return weight if module.token_rows is None else module.token_rows.merged_into(weight)


def check_retained(
    who: str, losses: dict[str, MergeLoss], min_retained: float, force: bool
) -> None:
    """Refuse a merge that loses more than it may; the message names the worst layer."""
    kept = retained(losses)
    if kept >= min_retained or force:
        return
    worst = min(losses, key=lambda name: losses[name].retained)
    raise InputError(
        f"{who}: at least {min_retained:.0%} of the update should survive 4 bits, {kept:.1%} would "
        f"({losses[worst].retained:.1%} in {worst}): keep the adapter, merge into 16 bits or force"
    )


def set_base(layer: QLoRALinear, base: Base) -> None:
    """Give the layer another base of the same shape; parameters stay the objects that they were."""
    layer.column_norm.forget()
    device = layer.weight.device
    layer.weight_dtype = base.dtype
    layer.format, layer.block_size = "none", 0
    if isinstance(base, QuantizedTensor):
        layer.format, layer.block_size = base.format, base.block_size
    codes = base.codes if isinstance(base, QuantizedTensor) else base
    layer.weight.data = codes.to(device)
    for name in ("scales", "nested_absmax", "nested_offset"):
        value = getattr(base, name, None)
        setattr(layer, name, None if value is None else value.to(device))


def held_apart(base: Base) -> Base:
    """The same bits, held by no parameter: what a parameter gets next does not show here."""
    if isinstance(base, QuantizedTensor):
        return replace(base, codes=base.codes.detach())
    return base.detach()


def _in_format_of(base: Base, weight: torch.Tensor) -> Base:
    if not isinstance(base, QuantizedTensor):
        return weight.to(base.dtype)
    made = quantize(weight, base.format, base.block_size, base.double_quant)
    return replace(made, dtype=base.dtype)


def dense_weight(base: Base) -> torch.Tensor:
    """A float32 copy of the weight."""
    if isinstance(base, QuantizedTensor):
        return dequantize(base, torch.float32)
    return base.detach().float().clone()


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Their inner product, summed in float64 row by row."""
    return float((a * b).sum(dim=-1, dtype=torch.float64).sum())
