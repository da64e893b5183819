"""Which rows a step trains on: a pure function of seed and step, so resuming needs no state."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class RowOrder:
    """Epoch after epoch over `rows` rows, each in an order of its own, `rows_per_step` at a time.

    The last step of an epoch takes what is left, so that every row counts once per epoch.
    """

    rows: int
    rows_per_step: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every row once."""
        return math.ceil(self.rows / self.rows_per_step)

    def rows_of(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.rows_per_step
        return _shuffled(self.rows, self.seed, epoch)[first : first + self.rows_per_step]


@lru_cache(maxsize=2)
def _shuffled(rows: int, seed: int, epoch: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # its own generator: the global one stays put
    return order
