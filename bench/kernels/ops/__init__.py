"""One file per op: its problem, our call, what its outputs should be and what it costs at least."""

from importlib import import_module
from typing import Any

OPS = (
    "qlora_linear",
    "qlora_linear_repeated",
    "dora_linear",
    "quantize",
    "dequantize",
    "linear_cross_entropy",
    "dora_column_norm",
    "adamw8bit",
)
WITHOUT_ROWS = ("quantize", "dequantize", "dora_column_norm", "adamw8bit")  # they have no x
STEPS = ("qlora_linear_repeated",)  # of generation, forward alone, by the native kernels
WITHOUT_ADAPTER = ("quantize", "dequantize", "linear_cross_entropy", "adamw8bit")
DEFAULT_FORMATS = {"adamw8bit": "8bit", "linear_cross_entropy": ""}  # of states, none; else of W

# What is timed where an option says nothing.
DEFAULTS = {"shapes": "4096x4096", "m": "1,8,128", "dtype": "bf16", "direction": "forward"}
DEFAULTS_OF = {
    "qlora_linear": {
        "shapes": "4096x4096,576x576,576x1536,2048x2048,11008x4096",
        "m": "1,8,32,128,512,2048",
        "dtype": "bf16,fp32",
        "direction": "forward,forward+backward",
    },
    "qlora_linear_repeated": {**DEFAULTS, "m": "1,8", "dtype": "bf16,fp32"},
}


def default(op: str, option: str) -> str:
    """Of --shapes, --m, --dtype or --direction."""
    return DEFAULTS_OF.get(op, DEFAULTS)[option]


def load(op: str) -> Any:
    """The file of an op: `problem`, `ours`, `expected`, `cost` and TRAFFIC, one of roof.py's."""
    return import_module(f"bench.kernels.ops.{op}")
