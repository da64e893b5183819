"""Task arithmetic (arXiv 2212.04089): updates are vectors, so skills are added and subtracted."""

from typing import TYPE_CHECKING

from torch import Tensor

from qlora.merge.layer import Layer
from qlora.merge.method import Adapters, LayerMerge

if TYPE_CHECKING:
    from qlora.merge.spec import MergeSpec


def task_arithmetic(spec: "MergeSpec", adapters: Adapters) -> LayerMerge:
    """merged = sum of w_i t_i."""

    def merge(layer: Layer) -> Tensor:
        pairs = zip(layer.weights, layer.matrices, strict=True)
        weight, matrix = next(pairs)
        merged = weight * matrix
        for weight, matrix in pairs:
            merged += weight * matrix
        return merged

    return merge
