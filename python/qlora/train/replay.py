"""`--replay old.jsonl:0.2`: a share of each epoch's examples comes from what was learned before.

A model that learns one thing forgets another where their data disagree; a few old examples in each
epoch keep it (experience replay, arXiv 1811.11682).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qlora.data import Example
from qlora.train.order import RowOrder
from qlora_kernels.errors import InputError

Examples = list[Example]


@dataclass(frozen=True)
class Replay:
    """old / (old + new) = share, in examples, for training and for what validates."""

    path: Path
    share: float

    @staticmethod
    def read(text: str) -> "Replay":
        """From `old.jsonl:0.2`; raises InputError for anything else."""
        path, _, number = text.rpartition(":")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not path or not 0 < share < 1:
            raise InputError(
                "train: replay should be a data file and a share in (0, 1), as old.jsonl:0.2, was"
                f" {text}"
            )
        return Replay(Path(path).expanduser(), share)

    def beside(self, new: int) -> int:
        """How many old examples make the share beside so many new ones."""
        return round(self.share / (1 - self.share) * new)

    def split(self, old: Examples, new_held: int, seed: int) -> tuple[Examples, Examples]:
        """(to train on, to validate on): of the latter as many as the share asks, half at most."""
        held = min(self.beside(new_held), len(old) // 2)
        chosen = set(random.Random(f"{seed}/replay split").sample(range(len(old)), held))
        rest = [example for i, example in enumerate(old) if i not in chosen]
        return rest, [old[i] for i in sorted(chosen)]

    def rows_an_epoch(self, new: Examples, old: Examples, old_rows: int) -> int:
        """Rows of old examples in an epoch; with packing, rows of the average number of them."""
        return max(1, round(self.beside(len(new)) * old_rows / len(old)))


def describe_replay(replay: Replay, order: RowOrder, rows: Sequence[Sequence[Example]]) -> str:
    """What share an epoch has, in examples and in tokens that carry loss."""
    new, old = rows[: order.rows], rows[order.rows :]
    drawn = order.replayed / len(old)
    counts = [sum(map(len, part)) for part in (new, old)]
    labels = [sum(e.num_supervised for row in part for e in row) for part in (new, old)]
    examples, tokens = (n[1] * drawn / (n[0] + n[1] * drawn) for n in (counts, labels))
    return (
        f"{counts[1] * drawn:.0f} of {counts[1]:,} examples of {replay.path} an epoch:"
        f" {examples:.1%} of its examples, {tokens:.1%} of the tokens that carry loss"
    )
