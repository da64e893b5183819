"""One file per op: its problem, our call, what its outputs should be and what it costs at least."""

from importlib import import_module
from typing import Any

OPS = (
    "qlora_linear",
    "dora_linear",
    "quantize",
    "dequantize",
    "linear_cross_entropy",
    "dora_column_norm",
    "adamw8bit",
)
WITHOUT_ROWS = ("quantize", "dequantize", "dora_column_norm", "adamw8bit")  # they have no x
DEFAULT_FORMATS = {"adamw8bit": "8bit"}  # of states; else that of a base weight


def load(op: str) -> Any:
    """The file of an op: `problem`, `ours`, `expected`, `cost` and TRAFFIC, one of roof.py's."""
    return import_module(f"bench.kernels.ops.{op}")
