"""A kernel-level QLoRA engine: 4-bit formats, fused linear layers with LoRA, on CPU and GPU."""

import os

from qlora_kernels import integrations, nn, ops, optim
from qlora_kernels.checks import InputError
from qlora_kernels.dispatch import backends, force_from_environment, use_backend
from qlora_kernels.formats import Adapter, QuantizedTensor
from qlora_kernels.nn import QLoRAConfig, load_adapter, prepare_model, requantize, save_adapter
from qlora_kernels.ops import (
    dequantize,
    dora_column_norm,
    dropout_mask,
    linear_cross_entropy,
    qlora_linear,
    quantization_error,
    quantize,
)

__all__ = [
    "Adapter",
    "InputError",
    "QLoRAConfig",
    "QuantizedTensor",
    "backends",
    "dequantize",
    "dora_column_norm",
    "dropout_mask",
    "integrations",
    "linear_cross_entropy",
    "load_adapter",
    "nn",
    "ops",
    "optim",
    "prepare_model",
    "qlora_linear",
    "quantization_error",
    "quantize",
    "requantize",
    "save_adapter",
    "use_backend",
]

force_from_environment(os.environ.get("QLORA_BACKEND"))
