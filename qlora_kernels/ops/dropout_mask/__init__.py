"""The room of dropout_mask."""

from qlora_kernels.ops.dropout_mask.op import dropout_mask

__all__ = ["dropout_mask"]
