"""The weights that were quantized, read again from the model folder one layer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora.export.tensor_files import Shard, shards_of
from qlora_kernels.errors import InputError
from qlora_kernels.nn import QLoRALinear

# Of the weight, as a share of its norm: 4 bits err by a tenth; another layer's weight by 1 or more.
ALIKE = 0.5


class DenseWeights:
    """`<layer>.weight` of a model folder's safetensors files; InputError where it has none."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        """Read the headers."""
        self._folder, self._prefix = folder, f"{model.base_model_prefix}."
        self._shards: dict[str, Shard] = {
            name: shard for shard in shards_of(folder) for name in shard.specs
        }

    def weight(self, name: str, layer: QLoRALinear) -> Tensor:
        """[out, in], float32 on the layer's device; GPT-2's, stored [in, out], transposed.

        Raises InputError where the files hold no such weight, or not the one that was quantized.
        """
        keys = (f"{name}.weight", f"{name.removeprefix(self._prefix)}.weight")
        key = next((key for key in keys if key in self._shards), None)
        if key is None or not self._shards[key].specs[key].dtype.is_floating_point:
            raise InputError(f"{self._folder} should hold {keys[0]} in 16 or 32 bits, does not")
        stored = self._shards[key].read(key).to(layer.weight.device, torch.float32)
        quantized = layer.dequantize().float()
        for weight in (stored, stored.T):
            if weight.shape == quantized.shape:
                error = torch.linalg.vector_norm(weight - quantized)
                if error <= ALIKE * torch.linalg.vector_norm(weight):
                    return weight
        raise InputError(f"{self._folder}: {key} should be what was quantized, is not like it")


@contextmanager
def dense_layers(layers: dict[str, QLoRALinear], weights: DenseWeights) -> Iterator[None]:
    """Within the block these layers compute `y = x W^T + bias` with W from the files."""
    hooks = [
        layer.register_forward_hook(_replacing(name, weights)) for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replacing(name: str, weights: DenseWeights) -> Any:
    def replace(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        assert isinstance(module, QLoRALinear)
        weight = weights.weight(name, module).to(output.dtype)
        bias = None if module.bias is None else module.bias.to(output.dtype)
        return nn.functional.linear(inputs[0].to(output.dtype), weight, bias)

    return replace
