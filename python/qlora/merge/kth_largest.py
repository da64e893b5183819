"""The k-th largest magnitude among all entries of an adapter, without holding them.

Magnitudes sort as their bits do, so the value is found 16 bits at a time, the highest first: a walk
over all layers counts how often each digit follows the digits found so far. Exact for any size.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from qlora.merge.layer import Layer

DIGIT_BITS = 16
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_largest(layers: Iterable[Layer], density: float) -> list[float]:
    """Per adapter the k-th largest |entry| over all layers, k = floor(density n), at least 1.

    `layers` is walked through 2 times (4 in float64), so it is no one-time iterator. Every
    `layer.matrices[i]` has one dtype, float32 or float64.
    """
    first = next(iter(layers))
    integer = INTEGERS[first.matrices[0].dtype]
    searches = [_Search(integer) for _ in first.matrices]
    size = 0
    for shift in range(torch.iinfo(integer).bits - DIGIT_BITS, -1, -DIGIT_BITS):
        size = 0
        for layer in layers:
            for search, matrix in zip(searches, layer.matrices, strict=True):
                search.count(matrix, shift)
            size += matrix.numel()
        for search in searches:
            search.decide(max(1, int(density * size)))
    return [search.value for search in searches]


class _Search:
    """The digits of one adapter's value, found from the highest down."""

    def __init__(self, integer: torch.dtype) -> None:
        self._integer, self._prefix, self._above = integer, 0, 0
        self._counts = torch.zeros(2**DIGIT_BITS, dtype=torch.int64)

    def count(self, matrix: Tensor, shift: int) -> None:
        """Count the digits at `shift` of the magnitudes that begin with the prefix."""
        bits = matrix.abs().view(self._integer).flatten()
        top = shift + DIGIT_BITS
        if top < torch.iinfo(self._integer).bits:
            bits = bits[(bits >> top) == self._prefix]
        digits = (bits >> shift) & (2**DIGIT_BITS - 1)
        self._counts += torch.bincount(digits, minlength=2**DIGIT_BITS)

    def decide(self, k: int) -> None:
        """Fix the digit in which the k-th largest falls; `above` counts what is surely larger."""
        reached = self._above + self._counts.flip(0).cumsum(0)  # as many are at least so large
        place = int((reached < k).sum())
        digit = 2**DIGIT_BITS - 1 - place
        self._above = int(reached[place] - self._counts[digit])
        self._prefix = self._prefix << DIGIT_BITS | digit
        self._counts.zero_()

    @property
    def value(self) -> float:
        """The magnitude with these bits."""
        floating = {wide: narrow for narrow, wide in INTEGERS.items()}[self._integer]
        return torch.tensor(self._prefix, dtype=self._integer).view(floating).item()
