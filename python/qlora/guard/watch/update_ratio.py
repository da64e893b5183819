"""How far a step moves the weights, from a sample of them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLES = 1024  # values of each parameter, evenly spaced


class UpdateMeter:
    """||change|| / ||weights|| of parameters, estimated from at most 1,024 values of each.

    A parameter's values count for all that they stand for. Between two strides that are even, a
    rank of 16 would show every other component only: strides are odd.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Over parameters that stay where they are in memory, as those of an optimizer do."""
        flat = [p.detach().view(-1) for p in parameters]
        strides = [max(1, p.numel() // SAMPLES) | 1 for p in flat]
        self._views = [p[::stride] for p, stride in zip(flat, strides, strict=True)]
        self._weights = torch.cat(
            [
                torch.full_like(view, math.sqrt(stride))
                for view, stride in zip(self._views, strides, strict=True)
            ]
        )

    def sample(self) -> Tensor:
        """The values of now."""
        return torch.cat(self._views) * self._weights

    def ratio_since(self, before: Tensor) -> float:
        """||now - before|| / ||before||, before a `sample`; 0 where all weights are 0."""
        change, size = torch.stack([(self.sample() - before).norm(), before.norm()]).tolist()
        return change / size if size else 0.0
