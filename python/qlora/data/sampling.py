"""Some of many, where a look at all would take too long."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sample(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of them in their order, the same ones every time.

    Drawn, not every so many: rows often alternate between kinds.
    """
    if len(items) <= most:
        return list(items)
    chosen = random.Random(0).sample(range(len(items)), most)
    return [items[number] for number in sorted(chosen)]
