"""Interleaved rounds: each contender in turn, again and again, so that drift meets all alike."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter, sleep

from bench.kernels.case import Contender

# Measures one contender once: the milliseconds of one call. Made once per contender.
Stopwatch = Callable[[], float]
MIN_ROUNDS = 7
SLOW_MS = 250.0  # the checked call of one that takes as long was warm-up enough
WARM_MS = 10.0  # what takes longer reads its inputs from memory anyway
REST_SECONDS = 0.01  # idle OpenMP threads spin for some milliseconds before they sleep


@dataclass(frozen=True)
class Timing:
    """All rounds of one contender, in milliseconds per call."""

    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return median(self.rounds_ms)

    @property
    def p20_ms(self) -> float:
        return self._fifths[0]

    @property
    def p80_ms(self) -> float:
        return self._fifths[-1]

    @property
    def _fifths(self) -> list[float]:
        if len(self.rounds_ms) == 1:
            return list(self.rounds_ms)
        return quantiles(self.rounds_ms, n=5, method="inclusive")


def ratio(ours: Timing, peer: Timing) -> float:
    """How many times faster we are: the median over the rounds, each of which ran both.

    A peer that was called once was in no round with us: then it is the ratio of the medians.
    """
    if len(ours.rounds_ms) != len(peer.rounds_ms):
        return peer.median_ms / ours.median_ms
    return median(p / o for o, p in zip(ours.rounds_ms, peer.rounds_ms, strict=True))


def interleave(
    stopwatches: Sequence[Stopwatch], seconds: float, min_rounds: int = MIN_ROUNDS
) -> list[Timing]:
    """At least so many rounds, and as many as fit into `seconds` per contender."""
    times: list[list[float]] = [[] for _ in stopwatches]
    gc.collect()
    gc.disable()
    try:
        end = perf_counter() + seconds * len(stopwatches)
        round_number = 0
        while round_number < min_rounds or perf_counter() < end:
            order = range(len(stopwatches))
            # Backwards every other round: nobody always follows the same neighbour.
            for index in order if round_number % 2 == 0 else reversed(order):
                times[index].append(stopwatches[index]())
            round_number += 1
    finally:
        gc.enable()
    return [Timing(tuple(each)) for each in times]


def rested(stopwatch: Stopwatch) -> Stopwatch:
    """For turns between processes: waits for the other's threads, and warms up before it counts."""

    def sample() -> float:
        sleep(REST_SECONDS)
        stopwatch()
        return stopwatch()

    return sample


def milliseconds(call: Callable[[], object]) -> float:
    """Of one call, by the host's clock."""
    start = perf_counter()
    call()
    return 1e3 * (perf_counter() - start)


def cpu_stopwatch(contender: Contender, sample_ms: float = 1.0) -> Stopwatch:
    """Calls in a row that take about `sample_ms` together, taking turns over the inputs' copies.

    An untimed call comes first: what is in the caches is what the contender itself leaves there,
    whatever the one before it swept out: of one copy its inputs, of many the code alone.
    """
    calls = contender.calls
    once_ms = contender.checked_ms
    if once_ms < SLOW_MS or len(calls) > 1:
        for call in calls:
            call()
        once_ms = milliseconds(calls[0])
    repeats = max(1, round(sample_ms / max(once_ms, 1e-6)))
    untimed = 1 if once_ms < WARM_MS else 0
    position = 0

    def sample() -> float:
        nonlocal position
        chosen = [calls[(position + i) % len(calls)] for i in range(untimed + repeats)]
        position += len(chosen)
        for call in chosen[:untimed]:
            call()
        timed = chosen[untimed:]
        start = perf_counter()
        for call in timed:
            call()
        return 1e3 * (perf_counter() - start) / repeats

    return sample
