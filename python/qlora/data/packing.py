"""Rows of several examples each, with attention that never crosses from one example to another.

    input_ids     a b c | d e | .        position_ids  0 1 2 | 0 1 | 2

Positions restart at each example; padding goes on where the last example ends, and no example sees
it because attention is causal.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from qlora.data.encode import IGNORE, Example
from qlora_kernels.errors import InputError


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows for the model: int64 tensors [rows, length]; `labels` are IGNORE where no loss is."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    num_tokens: int  # without padding
    num_supervised: int

    @property
    def attention_mask(self) -> Tensor:
        """Who attends to whom: bool [rows, 1, length, length], block-diagonal and causal."""
        block = (self.position_ids == 0).cumsum(-1)
        length = self.position_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=block.device).tril()
        return ((block[:, :, None] == block[:, None, :]) & causal)[:, None]

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for a transformers model: `model(**batch.inputs())`.

        No mask is passed: where positions restart, transformers (5.0 and later) builds the mask of
        `attention_mask` itself, in the form that the attention at hand takes (eager adds a mask, so
        a bool one would be wrong there), with sliding windows kept, and skips it for rows of one
        example. It does so only without a key/value cache, hence `use_cache=False`.
        `qlora.data.isolation` proves it for the model at hand.
        """
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "use_cache": False,
        }

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            position_ids=self.position_ids.to(device),
        )


def pack(examples: Sequence[Example], length: int, seed: int | None = None) -> list[list[Example]]:
    """Examples in bins of at most `length` tokens, each in the fullest bin with room (best fit).

    With a seed in shuffled order, for training: sorted, a row would hold neighbours in length,
    often of one kind, and its gradient would lean their way. Without, the longest first, which
    needs the fewest rows. Deterministic. Raises InputError for an example longer than `length`.
    """
    queue = sorted(examples, key=len, reverse=True)
    if seed is not None:
        Random(seed).shuffle(queue)
    bins: list[list[Example]] = []
    room: list[tuple[int, int]] = []  # (free tokens, index of the bin), sorted
    for example in queue:
        if len(example) > length:
            was = f"was {len(example)} ({example.source})"
            raise InputError(f"pack: an example should have at most {length} tokens, {was}")
        best = bisect_left(room, (len(example), 0))
        if best == len(room):
            bins.append([])
            free, index = length, len(bins) - 1
        else:
            free, index = room.pop(best)
        bins[index].append(example)
        insort(room, (free - len(example), index))
    return bins


def collate(bins: Sequence[Sequence[Example]], pad_id: int) -> Batch:
    """One row per bin, padded on the right to the longest; without packing a bin is `[example]`."""
    length = max(sum(map(len, examples)) for examples in bins)
    shape = len(bins), length
    input_ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORE)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    for row, examples in enumerate(bins):
        end = 0
        for example in examples:
            start, end = end, end + len(example)
            input_ids[row, start:end] = torch.tensor(example.input_ids)
            labels[row, start:end] = torch.tensor(example.labels)
            position_ids[row, start:] = torch.arange(length - start)
    return Batch(
        input_ids,
        labels,
        position_ids,
        num_tokens=sum(len(example) for examples in bins for example in examples),
        num_supervised=sum(example.num_supervised for examples in bins for example in examples),
    )
