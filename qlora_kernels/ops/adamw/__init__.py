"""The room of adamw."""

from qlora_kernels.ops.adamw.op import (
    adamw_step,
    adamw_step_in_file,
    count_steps,
    gradient_gate,
    guarded_step,
    takes_files,
)
from qlora_kernels.ops.adamw.segment import Gate, Guard, Hyperparameters, InFile, Segment

__all__ = [
    "Gate",
    "Guard",
    "Hyperparameters",
    "InFile",
    "Segment",
    "adamw_step",
    "adamw_step_in_file",
    "count_steps",
    "gradient_gate",
    "guarded_step",
    "takes_files",
]
