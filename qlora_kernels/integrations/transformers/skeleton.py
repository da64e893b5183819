"""Linear layers of a model without weights become quantized ones, and dense ones again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from qlora_kernels.checks import InputError
from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.nn import QLoRALinear, quantized_layers

SCALES = ("scales", "nested_absmax", "nested_offset")


def linear_layers(model: nn.Module, skipped: Sequence[str]) -> dict[str, nn.Module]:
    """Name -> linear layer, GPT-2's Conv1D too, of all whose names `skipped` does not match."""
    return {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D))
        and should_convert_module(name, list(skipped))
    }


def put_quantized(model: PreTrainedModel, name: str, linear: nn.Module, spec: QuantSpec) -> None:
    """A quantized layer without values in place of a linear one without."""
    weight = linear.get_parameter("weight")
    n, k = weight.T.shape if isinstance(linear, Conv1D) else weight.shape
    bias = linear._parameters.get("bias")
    layer = QLoRALinear(_without_values(spec, n, k, weight.dtype), bias)
    layer.__dict__["_is_hf_initialized"] = True  # codes are no weights to draw at random
    model.set_submodule(name, layer)


def put_dense(model: PreTrainedModel, name: str, dtype: torch.dtype, transposed: bool) -> None:
    """The dequantized layer in place of a quantized one; transposed: as Conv1D keeps it."""
    layer = quantized_layers(model)[name]
    if layer.lora_a is not None:
        raise InputError(f"dequantize: {name} should be without adapter (merge_adapter), has one")
    weight = layer.dequantize().to(dtype)
    with torch.device("meta"):
        dense: Any = (
            Conv1D(layer.out_features, layer.in_features)
            if transposed
            else nn.Linear(layer.in_features, layer.out_features)
        )
    dense.weight = nn.Parameter(weight.T.contiguous() if transposed else weight)
    dense.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(dtype))
    model.set_submodule(name, dense.train(layer.training))


def _without_values(spec: QuantSpec, n: int, k: int, dtype: torch.dtype) -> QuantizedTensor:
    def empty(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    count, nested = n * k, spec.double_quant
    return QuantizedTensor(
        empty([spec.num_code_bytes(count), 1], torch.uint8),
        empty([spec.num_blocks(count)], torch.uint8 if nested else torch.float32),
        empty([spec.num_nested_blocks(count)], torch.float32) if nested else None,
        empty([], torch.float32) if nested else None,
        torch.Size((n, k)),
        dtype,
        spec.format,
        spec.block_size,
    )
