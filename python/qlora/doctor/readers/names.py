"""What others call the columns of a record."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qlora.doctor.curves import Curves, series
from qlora_kernels.errors import InputError

STEP = ("step", "global_step", "train_global_step", "steps", "iteration", "iter")

# A field of Curves -> its names elsewhere, most telling first.
COLUMNS = {
    "training": ("loss", "train_loss", "training_loss", "train_loss_step", "train_loss_epoch"),
    "validation": ("eval_loss", "validation_loss", "val_loss", "valid_loss", "dev_loss"),
    "gradient_norm": (
        "gradient_norm", "grad_norm", "train_gradient_norm", "train_grad_norm", "global_grad_norm",
    ),
    "learning_rate": ("learning_rate", "lr", "train_learning_rate", "train_lr"),
    "epoch": ("epoch", "train_epoch"),
    "update_ratio": ("update_ratio", "train_update_ratio"),
}  # fmt: skip

Points = dict[str, dict[float, float]]  # field of Curves -> step -> value


def plain(name: str) -> str:
    """`run 7 - train/Loss`, as Weights & Biases exports it, is `train_loss`."""
    return re.sub(r"[^a-z0-9]+", "_", name.rpartition(" - ")[2].strip().lower()).strip("_")


def match(found: Iterable[str]) -> dict[str, str]:
    """Field of Curves -> which of the names that were found stands for it."""
    by_plain: dict[str, str] = {}
    for name in found:
        by_plain.setdefault(plain(name), name)
    chosen = {
        field: next((by_plain[known] for known in names if known in by_plain), None)
        for field, names in COLUMNS.items()
    }
    return {field: name for field, name in chosen.items() if name is not None}


def require_loss(where: str, matched: dict[str, str], found: Iterable[str]) -> None:
    """Raise InputError where there is no training loss."""
    if "training" not in matched:
        names = list(found)
        listed = ", ".join(names[:12]) or "nothing"
        raise InputError(
            f"doctor: {where} should have the training loss as loss, train_loss or training_loss,"
            f" had {listed}"
        )


def read_text(path: Path) -> str:
    """What a record says; raises InputError for a binary file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"doctor: {path} should be text, was binary") from None


def add_row(points: Points, row: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Add what a row of a log says under the names of `fields` (name -> field of Curves)."""
    for name, field in fields.items():
        if isinstance(row.get(name), (int, float)):
            points.setdefault(field, {})[_float(row["step"])] = _float(row[name])


def _float(number: float) -> float:
    """JSON's integers have no bound; floats end at infinity."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def to_curves(source: str, points: Points) -> Curves:
    """Curves of the points; raises InputError where there are not two losses."""
    losses = points.get("training", {})
    if len(losses) < 2:
        raise InputError(
            f"doctor: {source} should have at least 2 records of the training loss,"
            f" had {len(losses)}"
        )
    return Curves(source, **{field: series(values) for field, values in points.items()})
