"""Optimizers: state, no maths; the maths is in ops/adamw."""

from qlora_kernels.optim.adamw import AdamW
from qlora_kernels.optim.paged import state_bytes
from qlora_kernels.optim.settings import Settings
from qlora_kernels.optim.stored import as_32_bit

__all__ = ["AdamW", "Settings", "as_32_bit", "state_bytes"]
