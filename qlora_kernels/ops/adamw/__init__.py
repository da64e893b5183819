"""The room of adamw."""

from qlora_kernels.ops.adamw.op import adamw_step, gradient_gate
from qlora_kernels.ops.adamw.segment import Gate, Hyperparameters, Segment

__all__ = ["Gate", "Hyperparameters", "Segment", "adamw_step", "gradient_gate"]
