"""The most of one thing that fits: memory grows with each, so the answer is found by halving."""

from collections.abc import Callable
from dataclasses import dataclass

from qlora.plan.memory import Forecast

BATCHES, LENGTHS = 2**16, 2**24  # where a search ends if nothing else ends it


@dataclass(frozen=True)
class Limits:
    """The largest value of each setting that fits with the others as given; 0: not even 1 does.

    None: the method has no such setting. A length ends at what the model was made for, a rank at
    the smallest side of an adapted layer, where more changes nothing.
    """

    longest_sequence: int
    largest_batch: int
    highest_rank: int | None


def limits(forecast: Forecast) -> Limits:
    """Of a forecast whose settings have `memory`."""
    sides = [min(layer.n, layer.k) for layer in forecast.adapted]
    return Limits(
        largest(1, forecast.model.longest or LENGTHS, _fits(forecast, "sequence_length")),
        largest(1, BATCHES, _fits(forecast, "batch_size")),
        largest(1, min(sides), _fits(forecast, "rank")) if sides else None,
    )


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest value in [low, high] that fits, low - 1 if none does, where fits never comes back
    once it is lost."""
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _fits(forecast: Forecast, name: str) -> Callable[[int], bool]:
    def fits(value: int) -> bool:
        return forecast.changed(**{name: value}).fits

    return fits
