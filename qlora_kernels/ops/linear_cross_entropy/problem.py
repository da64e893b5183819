"""The labels of one call and what is asked of them."""

from dataclasses import dataclass

import torch

IGNORE = -100  # a row with this label has no loss


@dataclass(frozen=True, eq=False)
class Problem:
    """labels int64 [m], -100 where a row has none; label_smoothing in [0, 1); gradients wanted."""

    labels: torch.Tensor
    label_smoothing: float
    needs_hidden: bool = False
    needs_head: bool = False
