"""DARE (arXiv 2311.03099): drop entries at random and rescale, so that the expectation stays."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from qlora.merge.layer import Layer
from qlora.merge.method import Adapters, LayerMerge
from qlora_kernels import dropout_mask

if TYPE_CHECKING:
    from qlora.merge.spec import MergeSpec


def dare(spec: "MergeSpec", adapters: Adapters) -> LayerMerge:
    """merged = sum of w_i m_i t_i; per entry m_i is 1 / density with probability density, or 0."""

    def merge(layer: Layer) -> Tensor:
        contributions = dropped(spec, layer)
        merged = next(contributions)
        for contribution in contributions:
            merged += contribution
        return merged

    return merge


def dropped(spec: "MergeSpec", layer: Layer) -> Iterator[Tensor]:
    """w_i m_i t_i of each adapter.

    The masks come from (seed, adapter, layer) by a counter-based generator, the same on every
    machine. The adapter is its place in the order of `qlora.merge.order`, which its values decide:
    neither the order of the folders, their names, nor the gauge of the factors matters.
    """
    for place, (weight, matrix) in enumerate(zip(layer.weights, layer.matrices, strict=True)):
        mask = dropout_mask(mask_seed(spec.seed, place, layer.name), matrix.shape, 1 - spec.density)
        yield weight * matrix * mask


def mask_seed(seed: int, place: int, layer: str) -> int:
    """64 bits for one adapter and layer."""
    digest = hashlib.sha256(f"{seed} {place} {layer}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
