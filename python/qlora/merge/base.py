"""The weights of the base that DoRA adapters rescale, read layer by layer."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import qlora_kernels as qk
from qlora.merge.layer import Update
from qlora_kernels.errors import InputError


class BaseWeights:
    """`<layer>.weight` of a Hugging Face folder, as the adapter saw it in training.

    With the format of `layers` that is the dequantized weight; "none" leaves it as it is. Raises
    InputError for a folder without safetensors files and for a layer that they do not hold.
    """

    def __init__(self, folder: str | Path, layers: qk.QLoRAConfig) -> None:
        self._folder, self._layers = Path(folder), layers
        files = sorted(self._folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"merge: {folder} should be a model folder with safetensors, has none")
        self._files: dict[str, Path] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    self._files |= dict.fromkeys(opened.keys(), file)
            except (OSError, SafetensorError) as error:
                raise InputError(f"merge: {file} should be readable: {error}") from None

    def shape(self, layer: str) -> tuple[int, ...]:
        """Of the weight, from the file's header."""
        with safe_open(self._file(layer), framework="pt") as opened:
            return tuple(opened.get_slice(f"{layer}.weight").get_shape())

    def weight(self, layer: str) -> Tensor:
        """[out, in], float32."""
        with safe_open(self._file(layer), framework="pt") as opened:
            weight: Tensor = opened.get_tensor(f"{layer}.weight").float()
        spec = self._layers.spec_of(layer)
        if spec is None:
            return weight
        quantized = qk.quantize(
            weight,
            spec.format,
            spec.block_size,
            spec.double_quant,
            spec.scale_search,
        )
        return qk.dequantize(quantized).float()

    def _file(self, layer: str) -> Path:
        if f"{layer}.weight" not in self._files:
            raise InputError(f"merge: {self._folder} should hold {layer}.weight, does not")
        return self._files[f"{layer}.weight"]


def dora_update(weight: Tensor, left: Tensor, right: Tensor, magnitude: Tensor) -> Update:
    """The effective update of DoRA (arXiv 2402.09353): (g - 1) W + g s B A.

    g = magnitude / |W + s B A| per output feature, 1 where that norm is 0; left = s B.
    """
    norm = torch.linalg.vector_norm(weight + left @ right, dim=1)
    scale = torch.where(norm > 0, magnitude / norm, 1.0)[:, None]
    return Update(scale * left, right, rest=(scale - 1) * weight)
