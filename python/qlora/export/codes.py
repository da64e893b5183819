"""Quantized weights in safetensors files: several tensors that stand for one.

LAYER.weight.codes   .scales   .nested_absmax   .nested_offset   .spec
"""

from collections.abc import Collection, Mapping

import torch

import qlora_kernels as qk
from qlora.export.tensor_files import Shard

Stored = torch.Tensor | qk.QuantizedTensor

_PARTS = ("codes", "scales", "nested_absmax", "nested_offset", "spec")
_CODES = ".weight.spec"  # the part that every quantized weight has


def quantized_names(names: Collection[str]) -> list[str]:
    """The layers whose weights are codes."""
    return sorted(name.removesuffix(_CODES) for name in names if name.endswith(_CODES))


def parts_of(layer: str, names: Collection[str]) -> list[str]:
    """The tensors that hold the layer's codes and scales."""
    return [name for part in _PARTS if (name := f"{layer}.weight.{part}") in names]


def tensor_names(shard: Shard) -> list[str]:
    """The model's names of what is in the shard: `layer.weight` where it holds that one's codes."""
    layers = quantized_names(shard.specs)
    parts = {part: f"{layer}.weight" for layer in layers for part in parts_of(layer, shard.specs)}
    return list(dict.fromkeys(parts.get(name, name) for name in shard.specs))


def read_stored(shard: Shard, name: str) -> Stored:
    """The tensor of that name, or the codes that stand for it, as they are."""
    if name in shard.specs:
        return shard.read(name)
    return read_codes(name.removesuffix(".weight"), dict.fromkeys(shard.specs, shard))


def read_codes(layer: str, shards: Mapping[str, Shard]) -> qk.QuantizedTensor:
    """The layer's weight; its parts may lie in different shards."""
    tensors = {name: shards[name].read(name) for name in parts_of(layer, shards)}
    return qk.QuantizedTensor.from_state_dict(tensors, f"{layer}.weight")
