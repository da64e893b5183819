"""The limits of every kernel, in one committed file: what gets worse fails, by name."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.compile_gate.compiled import Row
from qlora_kernels.files import write_text

FILE = Path(__file__).with_name("limits.json")
SLACK = 1.05  # compilers differ by a few instructions from release to release
HIGHER_IS_WORSE = ("registers", "shared_bytes", "sass_per_weight")


def breaches(rows: Iterable[Row], limits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One line for each limit that a row breaks, and for each that nobody keeps any more."""
    unseen = set(limits)
    for row in rows:
        unseen.discard(row.key)
        if row.spills:
            yield f"{row.key}: spills should be 0 bytes, were {row.spills}"
        if row.key not in limits:
            yield f"{row.key}: has no limits (make kernels-report UPDATE=1 writes them)"
            continue
        yield from _compared(row, limits[row.key])
    for key in sorted(unseen):
        yield f"{key}: has limits, but no such kernel is compiled"


def _compared(row: Row, limit: Mapping[str, Any]) -> Iterator[str]:
    for name in HIGHER_IS_WORSE:
        now, then = getattr(row, name), limit[name]
        if (now is None) != (then is None) or (now is not None and now > then * SLACK):
            yield f"{row.key}: {name} should be at most {then}, was {now}"
    if row.bound_share * SLACK < limit["bound_share"]:
        then = limit["bound_share"]
        yield f"{row.key}: bound_share should be at least {then}, was {row.bound_share}"
    if row.matrix_instruction != limit["matrix_instruction"]:
        then = limit["matrix_instruction"] or "none"
        now = row.matrix_instruction or "none"
        yield f"{row.key}: matrix_instruction should be {then}, was {now}"


def read() -> dict[str, dict[str, Any]]:
    limits: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return limits


def write(rows: Iterable[Row], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Today's values become the limits; those of the `others` stay."""
    names = (*HIGHER_IS_WORSE, "bound_share", "matrix_instruction")
    limits = dict(others)
    limits |= {row.key: {name: getattr(row, name) for name in names} for row in rows}
    lines = (f"{json.dumps(key)}: {json.dumps(limits[key])}" for key in sorted(limits))
    write_text(FILE, "{\n" + ",\n".join(lines) + "\n}\n")
