"""The adapters of a merge: checked against each other, in one order, layer by layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qlora.merge.base import BaseWeights, dora_update
from qlora.merge.layer import Layer, Update, standard_layer
from qlora.merge.order import canonical_order
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import AdapterFolder, LayerFactors

Factors = Mapping[str, LayerFactors]
Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class AdapterSet:
    """Adapters in the order of `qlora.merge.order`; iteration gives dense layers by name.

    shapes: layer -> (out, in), for every layer that any adapter has. embeddings: those of them that
    peft keeps as embeddings (their update is transposed; merging is the same). places: where each
    adapter stood in the order it was given.
    """

    factors: tuple[Factors, ...]
    weights: tuple[float, ...]
    places: tuple[int, ...]
    shapes: Mapping[str, Shape]
    embeddings: frozenset[str]
    base: BaseWeights | None = None
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.factors)

    def __iter__(self) -> Iterator[Layer]:
        return (standard_layer(name, self.weights, self.updates(name)) for name in self.shapes)

    def updates(self, name: str) -> tuple[Update, ...]:
        """What each adapter adds to the layer; one that lacks it adds zero (of rank 0)."""
        return tuple(self._update(name, factors.get(name)) for factors in self.factors)

    def _update(self, name: str, factors: LayerFactors | None) -> Update:
        if factors is None:
            rows, columns = self.shapes[name]
            empty = (
                torch.empty(rows, 0, dtype=self.dtype),
                torch.empty(0, columns, dtype=self.dtype),
            )
            return Update(*empty)
        a, b = factors.a.to(self.dtype), factors.b.to(self.dtype)
        if factors.magnitude is None:
            return Update(factors.scaling * b, a)
        assert self.base is not None  # adapter_set refuses DoRA without it
        weight = self.base.weight(name).to(self.dtype)
        return dora_update(weight, factors.scaling * b, a, factors.magnitude.to(self.dtype))


def adapter_set(
    folders: Sequence[AdapterFolder],
    names: Sequence[str],
    weights: Sequence[float],
    base: BaseWeights | None = None,
) -> AdapterSet:
    """Check that the adapters can be merged; `names` are for messages.

    Raises InputError for tensors besides LoRA factors, shapes that disagree between adapters (with
    the layer and both shapes), and DoRA without a base.
    """
    for folder, name in zip(folders, names, strict=True):
        _check_parts(folder, name, base)
    factors = [{**folder.layers, **folder.embeddings} for folder in folders]
    wide = any(f.b.dtype == torch.float64 for layers in factors for f in layers.values())
    order = canonical_order(factors, weights)
    return AdapterSet(
        factors=tuple(factors[place] for place in order),
        weights=tuple(weights[place] for place in order),
        places=tuple(order),
        shapes=_shapes(factors, names, base),
        embeddings=frozenset(name for folder in folders for name in folder.embeddings),
        base=base,
        dtype=torch.float64 if wide else torch.float32,
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """The parts of each path that tell them apart: runs/a/adapter, runs/b/adapter are a, b.

    The same folder twice is numbered.
    """
    parts = [path.absolute().parts for path in paths]
    if len(set(parts)) > 1:
        while len({path[-1:] for path in parts}) == 1:
            parts = [path[:-1] for path in parts]
    count = 1
    while len({path[-count:] for path in parts}) < len(set(parts)):
        count += 1
    names = ["/".join(path[-count:]) for path in parts]
    return [
        name if name not in names[:place] else f"{name} ({names[:place].count(name) + 1})"
        for place, name in enumerate(names)
    ]


def _check_parts(folder: AdapterFolder, name: str, base: BaseWeights | None) -> None:
    for part in ("biases", "saved_modules", "token_rows"):
        if found := getattr(folder, part):
            words = part.replace("_", " ")
            first = next(iter(found))
            raise InputError(f"merge: {name} should hold LoRA factors only, has {words} ({first})")
    for layer, factors in (*folder.layers.items(), *folder.embeddings.items()):
        if factors.magnitude is None:
            continue
        if layer in folder.embeddings:
            raise InputError(f"merge: {name}: {layer} should be LoRA, is DoRA on an embedding")
        if base is None:
            raise InputError(
                f"merge: {name} is DoRA, which rescales the base weights: --base should name the "
                "model it was trained on, was not given"
            )


def _shapes(
    factors: Sequence[Factors], names: Sequence[str], base: BaseWeights | None
) -> dict[str, Shape]:
    """Layer -> (out, in) by name; InputError where two adapters, or one and the base, disagree."""
    shapes: dict[str, tuple[Shape, str]] = {}
    for layers, adapter in zip(factors, names, strict=True):
        for name, f in layers.items():
            shape = f.b.shape[0], f.a.shape[1]
            known, owner = shapes.setdefault(name, (shape, adapter))
            if known != shape:
                raise InputError(
                    f"merge: {name} should have one shape [out, in] in all adapters, was "
                    f"{list(known)} in {owner} and {list(shape)} in {adapter}"
                )
            if base is not None and f.magnitude is not None and base.shape(name) != shape:
                raise InputError(
                    f"merge: {name} of {adapter} should fit the base's {list(base.shape(name))}, "
                    f"was {list(shape)}"
                )
    return {name: shapes[name][0] for name in sorted(shapes)}
