"""Room for the keys and values of tokens to come, behind the cache that transformers keeps.

Its own cache appends a token by copying all that came before. Here its layers hold views of one
tensor with room at the end: a token is written there, and the views grow by one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

LEAST = 64  # tokens that there is room for at first


class CacheRoom:
    """Keys and values [layers, 2, 1, heads, capacity, head_dim] of the layers of a DynamicCache."""

    def __init__(self, layers: Sequence[Any]) -> None:
        """layers: each with keys and values [1, heads, tokens, head_dim] of the same sizes."""
        self._layers = layers
        self._make_room()

    def one_more(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of each layer: where a token's key and value go [2, 1, heads, head_dim], and all keys and
        all values up to it, which the cache has from now on.
        """
        if self._length == self._room.shape[-2]:
            self._make_room()
        self._length += 1
        held = self._room[..., : self._length, :]
        all_keys, all_values = held[:, 0].unbind(), held[:, 1].unbind()
        for layer, keys, values in zip(self._layers, all_keys, all_values, strict=True):
            layer.keys, layer.values = keys, values
        return zip(held[..., -1, :].unbind(), all_keys, all_values, strict=True)

    def _make_room(self) -> None:
        """Half as much again as there is, so that what is copied stays a part of what is added."""
        keys = self._layers[0].keys
        *sizes, self._length, width = keys.shape
        capacity = self._length + max(LEAST, self._length // 2)
        self._room = keys.new_empty(len(self._layers), 2, *sizes, capacity, width)
        held = self._room[..., : self._length, :]
        for target, layer in zip(held, self._layers, strict=True):
            torch.stack((layer.keys, layer.values), out=target)
            layer.keys, layer.values = target  # the memory of the others is free from here on
