"""The weights of the base that DoRA adapters rescale, read layer by layer."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import qlora_kernels as qk
from qlora.export.codes import read_stored, tensor_names
from qlora.export.tensor_files import Shard
from qlora.merge.layer import Update
from qlora_kernels.errors import InputError
from qlora_kernels.nn.surgery import check_stored


class BaseWeights:
    """`<layer>.weight` of a Hugging Face folder, as the adapter saw it in training.

    With the format of `layers` that is the dequantized weight; "none" leaves it as it is. A folder
    of `qlora quantize` holds the codes already, and `layers` must say the same format. Raises
    InputError for a folder without safetensors files and for a layer that they do not hold.
    """

    def __init__(self, folder: str | Path, layers: qk.QLoRAConfig) -> None:
        self._folder, self._layers = Path(folder), layers
        files = sorted(self._folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"merge: {folder} should be a model folder with safetensors, has none")
        self._shards = {name: shard for shard in map(Shard, files) for name in tensor_names(shard)}

    def shape(self, layer: str) -> tuple[int, ...]:
        """Of the weight, from the file's header; for codes, from themselves."""
        shard, name = self._shard(layer), f"{layer}.weight"
        dense = name in shard.specs
        return shard.specs[name].shape if dense else tuple(read_stored(shard, name).shape)

    def weight(self, layer: str) -> Tensor:
        """[out, in], float32."""
        stored = read_stored(self._shard(layer), f"{layer}.weight")
        if isinstance(stored, qk.QuantizedTensor):
            check_stored("merge", layer, stored, self._layers)
            return qk.dequantize(stored, torch.float32)
        weight = stored.float()
        spec = self._layers.spec_of(layer)
        return weight if spec is None else qk.dequantize(qk.quantize(weight, **asdict(spec)))

    def _shard(self, layer: str) -> Shard:
        if f"{layer}.weight" not in self._shards:
            raise InputError(f"merge: {self._folder} should hold {layer}.weight, does not")
        return self._shards[f"{layer}.weight"]


def dora_update(weight: Tensor, left: Tensor, right: Tensor, magnitude: Tensor) -> Update:
    """The effective update of DoRA (arXiv 2402.09353): (g - 1) W + g s B A.

    g = magnitude / |W + s B A| per output feature, 1 where that norm is 0; left = s B.
    """
    norm = torch.linalg.vector_norm(weight + left @ right, dim=1)
    scale = torch.where(norm > 0, magnitude / norm, 1.0)[:, None]
    return Update(scale * left, right, rest=(scale - 1) * weight)
