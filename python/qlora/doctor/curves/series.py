"""The record of a run as series of numbers over its steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

Numbers = NDArray[numpy.float64]


@dataclass(frozen=True, eq=False)
class Series:
    """values [n] recorded at steps [n], which ascend; a value may be NaN or infinite."""

    steps: Numbers = field(default_factory=lambda: numpy.empty(0))
    values: Numbers = field(default_factory=lambda: numpy.empty(0))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def finite(self) -> "Series":
        """Without what is not a number."""
        kept = numpy.isfinite(self.values)
        return Series(self.steps[kept], self.values[kept])


def series(points: Mapping[float, float]) -> Series:
    """Step -> value as a series; of a step that a resumed run repeated, the last value counts."""
    steps = sorted(points)
    return Series(numpy.array(steps, float), numpy.array([points[step] for step in steps], float))


@dataclass(frozen=True, eq=False)
class Curves:
    """What was recorded; an empty series was not. source: where from, in words."""

    source: str
    training: Series
    validation: Series = field(default_factory=Series)
    gradient_norm: Series = field(default_factory=Series)
    learning_rate: Series = field(default_factory=Series)
    epoch: Series = field(default_factory=Series)
    update_ratio: Series = field(default_factory=Series)
