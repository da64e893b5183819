"""TIES (arXiv 2306.01708): trim, elect signs, mean of those that agree.

Trim: of each update the k = floor(density n) largest entries stay, n counted over the whole adapter
(the paper) or over each layer. An adapter that lacks a layer has zeros there, and they count. All
entries as large as the k-th stay, so that no order of parameters matters. (The notebook of the
paper keeps one more: its k-th smallest value is not trimmed.)
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from qlora.merge.election import Election
from qlora.merge.kth_largest import kth_largest
from qlora.merge.layer import Layer
from qlora.merge.method import Adapters, LayerMerge

if TYPE_CHECKING:
    from qlora.merge.spec import MergeSpec


def ties(spec: "MergeSpec", adapters: Adapters) -> LayerMerge:
    """merged = sum of |w_i| s [sign(w_i t_i) = s] |t_i| / sum of |w_i| [...], over trimmed t_i.

    s = sign(sum of w_i t_i) per entry, over trimmed t_i; where that is exactly 0 the sign of the
    sum of all elected signs of the scope (the paper's code), and 0 (no update) where that is 0 too.
    """
    whole = spec.trim_scope == "model"
    thresholds = kth_largest(adapters, spec.density) if whole else []

    def trimmed(layer: Layer) -> Iterator[Tensor]:
        levels = thresholds or kth_largest([layer], spec.density)
        for weight, level, matrix in zip(layer.weights, levels, layer.matrices, strict=True):
            yield weight * matrix.where(matrix.abs() >= level, 0.0)

    election = Election(trimmed, adapters if whole else None)
    return election.mean
