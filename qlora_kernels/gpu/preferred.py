"""Which of two GPU backends was measured faster, by architecture and op; nothing is guessed.

`make gpu` writes the file beside this one (bench/gpu/preferences.py); it is read once:

    {"sm_90": {"dequantize": "cuda", "quantize": "triton"}}

Where the file, the architecture or the op is absent, a room's own order holds.
"""

import json
from functools import cache
from pathlib import Path

import torch

FILE = Path(__file__).with_suffix(".json")


def first_choice(op: str) -> str | None:
    """The backend that was faster for an op on this machine's GPU, or None if nobody knows."""
    return _of_this_gpu().get(op)


def read(file: Path) -> dict[str, dict[str, str]]:
    """The preferences of every architecture that was measured."""
    if not file.exists():
        return {}
    found: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return found


@cache
def _of_this_gpu() -> dict[str, str]:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return {}
    return read(FILE).get(f"sm_{''.join(map(str, torch.cuda.get_device_capability()))}", {})
