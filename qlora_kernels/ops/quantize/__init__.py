"""The room of quantize."""

from qlora_kernels.ops.quantize.op import quantize

__all__ = ["quantize"]
