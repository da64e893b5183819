"""The weighted mean of the updates (model soups, arXiv 2203.05482)."""

from typing import TYPE_CHECKING

from torch import Tensor

from qlora.merge.layer import Layer
from qlora.merge.method import Adapters, LayerMerge
from qlora.merge.methods.task_arithmetic import task_arithmetic

if TYPE_CHECKING:
    from qlora.merge.spec import MergeSpec


def average(spec: "MergeSpec", adapters: Adapters) -> LayerMerge:
    """merged = sum of w_i t_i / sum of w_i; MergeSpec refuses weights that sum to 0."""
    add = task_arithmetic(spec, adapters)

    def merge(layer: Layer) -> Tensor:
        return add(layer) / sum(layer.weights)

    return merge
