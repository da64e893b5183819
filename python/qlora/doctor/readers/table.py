"""A table of losses: comma, semicolon or tab separated, with a header."""

import csv
import math
from pathlib import Path

from qlora.doctor.curves import Curves
from qlora.doctor.readers.names import (
    STEP,
    Points,
    match,
    plain,
    read_text,
    require_loss,
    to_curves,
)
from qlora_kernels.errors import InputError

MISSING = {"", "none", "null", "na", "n/a", "-"}  # a cell that was not recorded


def read_table(path: Path) -> Curves:
    """Curves of the columns that `match` knows; without one for the step, rows are counted."""
    try:
        return _read_lines(path, read_text(path).splitlines())
    except csv.Error as error:
        raise InputError(f"doctor: {path} should be a table, was not: {error}") from None


def _read_lines(path: Path, lines: list[str]) -> Curves:
    header = lines[0] if lines else ""
    separator = max(",;\t", key=header.count)
    rows = csv.DictReader(lines, delimiter=separator)
    names = [name for name in rows.fieldnames or [] if name]
    matched = match(names)
    require_loss(str(path), matched, names)
    plain_names = {plain(name): name for name in names}
    step_name = next((plain_names[known] for known in STEP if known in plain_names), None)
    points: Points = {}
    for number, row in enumerate(rows, start=1):
        place = f"{path}:{number + 1}"
        step = _number(place, row[step_name]) if step_name else float(number)
        if step is None or not math.isfinite(step):
            raise InputError(f"doctor: {place} should have a step, was {row[step_name or '']!r}")
        for field, name in matched.items():
            value = _number(place, row[name])
            if value is not None:
                points.setdefault(field, {})[step] = value
    return to_curves(str(path), points)


def _number(place: str, cell: str | None) -> float | None:
    """The number in a cell, None for an empty one."""
    text = (cell or "").strip()
    if text.lower() in MISSING:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"doctor: {place} should be numbers, was {text[:40]!r}") from None
