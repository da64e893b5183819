"""trainer_state.json of the Hugging Face Trainer, and of what is built on it."""

import json
import re
from pathlib import Path

from qlora.doctor.curves import Curves
from qlora.doctor.readers.names import Points, add_row, read_text, to_curves
from qlora_kernels.errors import InputError

STATE = "trainer_state.json"
FIELDS = {
    "loss": "training",
    "eval_loss": "validation",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
}


def find_state(folder: Path) -> Path | None:
    """The state in a folder, or else that of its latest checkpoint."""
    if (folder / STATE).is_file():
        return folder / STATE
    found = [
        (int(number[1]), path)
        for path in folder.glob(f"checkpoint-*/{STATE}")
        if (number := re.fullmatch(r"checkpoint-(\d+)", path.parent.name))
    ]
    return max(found)[1] if found else None


def read_state(path: Path) -> Curves:
    """Curves of log_history; raises InputError where the file is another."""
    try:
        state = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"doctor: {path} should be JSON, was not: {error}") from None
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise InputError(f"doctor: {path} should have the Trainer's log_history, had none")
    points: Points = {}
    for row in history:  # a step's, a validation's, or the summary, which has no loss
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            add_row(points, row, FIELDS)
    return to_curves(str(path), points)
