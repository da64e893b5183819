"""One room per op: the same files in each; a missing file means "not supported on that backend"."""

from qlora_kernels.ops.adamw import adamw_step, gradient_gate
from qlora_kernels.ops.dequantize import dequantize
from qlora_kernels.ops.dora_column_norm import dora_column_norm
from qlora_kernels.ops.dropout_mask import dropout_mask
from qlora_kernels.ops.linear_cross_entropy import linear_cross_entropy
from qlora_kernels.ops.qlora_linear import Linear, qlora_linear, qlora_linear_group
from qlora_kernels.ops.quantize import quantization_error, quantize

__all__ = [
    "Linear",
    "adamw_step",
    "dequantize",
    "dora_column_norm",
    "dropout_mask",
    "gradient_gate",
    "linear_cross_entropy",
    "qlora_linear",
    "qlora_linear_group",
    "quantization_error",
    "quantize",
]
