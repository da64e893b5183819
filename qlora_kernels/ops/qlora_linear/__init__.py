"""The room of qlora_linear."""

from qlora_kernels.ops.qlora_linear.op import Linear, qlora_linear, qlora_linear_group

__all__ = ["Linear", "qlora_linear", "qlora_linear_group"]
