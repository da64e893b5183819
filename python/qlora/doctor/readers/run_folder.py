"""metrics.jsonl of `qlora train`: one JSON object per row, of any version."""

import json
from pathlib import Path
from typing import Any

from qlora.doctor.curves import Curves
from qlora.doctor.readers.names import Points, add_row, read_text, to_curves
from qlora_kernels.errors import InputError

METRICS = "metrics.jsonl"
STEP_FIELDS = {
    "loss": "training",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "update_ratio": "update_ratio",
}


def read_run(path: Path) -> Curves:
    """Curves of the rows of kind step and evaluation; other kinds and keys are passed over."""
    points: Points = {}
    *whole, _ = read_text(path).split("\n")  # the last is empty, or cut off by a kill
    for number, line in enumerate(whole, start=1):
        row = _row(path, number, line)
        if row.get("kind") == "step":
            add_row(points, row, STEP_FIELDS)
        elif row.get("kind") == "evaluation":
            add_row(points, row, {"loss": "validation"})
    return to_curves(str(path), points)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise InputError(
            f"doctor: {path}:{number} should be a JSON object with a step, was {line[:60]!r}"
        )
    return row
