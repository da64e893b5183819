"""Which rows a step trains on: a pure function of seed and step, so resuming needs no state."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class RowOrder:
    """Epoch after epoch over `rows` rows, each in an order of its own, `rows_per_step` at a time.

    The last step of an epoch takes what is left, so that every row counts once per epoch. Among
    them are `replayed` of `old_rows` more rows, numbered from `rows` on: all of those once before
    one comes again.
    """

    rows: int
    rows_per_step: int
    seed: int
    old_rows: int = 0
    replayed: int = 0  # of old_rows in one epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every row once."""
        return math.ceil((self.rows + self.replayed) / self.rows_per_step)

    def rows_of(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.rows_per_step
        return _shuffled(self, epoch)[first : first + self.rows_per_step]


@lru_cache(maxsize=2)
def _shuffled(order: RowOrder, epoch: int) -> list[int]:
    drawn = range(epoch * order.replayed, (epoch + 1) * order.replayed)
    rows = [*range(order.rows), *(order.rows + _old_row(order, place) for place in drawn)]
    # Its own generator: the global one stays put.
    random.Random(f"{order.seed}/{epoch}").shuffle(rows)
    return rows


def _old_row(order: RowOrder, place: int) -> int:
    """The row at a place of the endless sequence of old ones, shuffled anew each time round."""
    time_round, number = divmod(place, order.old_rows)
    return _old_order(order.old_rows, order.seed, time_round)[number]


@lru_cache(maxsize=2)
def _old_order(rows: int, seed: int, time_round: int) -> list[int]:
    numbers = list(range(rows))
    random.Random(f"{seed}/replay/{time_round}").shuffle(numbers)
    return numbers
