"""The room of dequantize."""

from qlora_kernels.ops.dequantize.op import dequantize

__all__ = ["dequantize"]
