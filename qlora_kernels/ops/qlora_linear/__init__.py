"""The room of qlora_linear."""

from qlora_kernels.ops.qlora_linear.op import qlora_linear

__all__ = ["qlora_linear"]
