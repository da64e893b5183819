"""Optimizers: state, no maths; the maths is in ops/adamw."""

from qlora_kernels.optim.adamw import AdamW
from qlora_kernels.optim.settings import Settings

__all__ = ["AdamW", "Settings"]
