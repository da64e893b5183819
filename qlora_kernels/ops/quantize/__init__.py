"""The room of quantize."""

from qlora_kernels.ops.quantize.error import quantization_error
from qlora_kernels.ops.quantize.op import quantize

__all__ = ["quantization_error", "quantize"]
