"""The room of linear_cross_entropy."""

from qlora_kernels.ops.linear_cross_entropy.op import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
