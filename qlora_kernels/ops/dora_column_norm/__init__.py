"""The room of dora_column_norm."""

from qlora_kernels.ops.dora_column_norm.op import dora_column_norm

__all__ = ["dora_column_norm"]
