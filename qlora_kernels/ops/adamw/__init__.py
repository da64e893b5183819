"""The room of adamw."""

from qlora_kernels.ops.adamw.op import adamw_step, count_steps, gradient_gate, guarded_step
from qlora_kernels.ops.adamw.segment import Gate, Guard, Hyperparameters, Segment

__all__ = [
    "Gate",
    "Guard",
    "Hyperparameters",
    "Segment",
    "adamw_step",
    "count_steps",
    "gradient_gate",
    "guarded_step",
]
