"""One sign per entry, elected by all contributions, and what agrees with it."""

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor

from qlora.merge.layer import Layer
from qlora.merge.method import Adapters


class Election:
    """Merges contributions (w_i t_i, made anew at each call) entry by entry.

    The sign of an entry is that of the sum. Where contributions cancel exactly it is the sign of
    the sum of all elected signs: over `adapters`, or over the layer where that is None.
    """

    def __init__(
        self, contributions: Callable[[Layer], Iterable[Tensor]], adapters: Adapters | None
    ) -> None:
        self._contributions, self._adapters = contributions, adapters

    def sum(self, layer: Layer) -> Tensor:
        """Sum of the contributions that have the elected sign."""
        return self._agreeing(layer)[0]

    def mean(self, layer: Layer) -> Tensor:
        """The same, divided by the sum of |w_i| over those that agree."""
        merged, weights = self._agreeing(layer)
        return merged / weights.where(weights > 0, 1.0)

    def _agreeing(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Sum of the contributions with the elected sign, and of their |w_i|, per entry."""
        signs = self._signs(layer)
        merged, weights = torch.zeros_like(signs), torch.zeros_like(signs)
        for weight, contribution in zip(layer.weights, self._contributions(layer), strict=True):
            agrees = (contribution.sign() == signs) & (signs != 0)
            merged += contribution.where(agrees, 0.0)
            weights += abs(weight) * agrees
        return merged, weights

    def _signs(self, layer: Layer) -> Tensor:
        signs, tied = self._elect(layer)
        if tied.any():
            signs[tied] = float(signs.sum().sign()) if self._adapters is None else self._majority
        return signs

    def _elect(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Signs of the sums, and where contributions cancel exactly."""
        total: Tensor | None = None
        touched: Tensor | None = None
        for contribution in self._contributions(layer):
            total = contribution.clone() if total is None else total.add_(contribution)
            present = contribution != 0
            touched = present if touched is None else touched.logical_or_(present)
        assert total is not None and touched is not None  # a layer has contributions
        signs = total.sign_()
        return signs, touched & (signs == 0)

    @cached_property
    def _majority(self) -> float:
        """A pass over all layers, made only when two contributions cancel exactly."""
        balance = sum(float(self._elect(layer)[0].sum()) for layer in self._adapters or ())
        return float(balance > 0) - float(balance < 0)
