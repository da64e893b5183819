"""What was measured faster, Triton or CUDA, becomes what the dispatcher takes first."""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import exp, fsum, log
from pathlib import Path
from typing import Any

from qlora_kernels.files import write_text
from qlora_kernels.gpu.preferred import FILE, read

# The rooms of the dispatcher that an op of the benchmark times, where they have other names.
ROOMS = {"adamw8bit": ("adamw_step",)}


def preferences_told(whole: Path, architecture: str | None, file: Path = FILE) -> Iterator[str]:
    """One line per op that both were timed for side by side; the file gets what was found.

    What the file says of other ops and architectures stays.
    """
    lines = whole.read_text(encoding="utf-8").splitlines() if whole.exists() else []
    found = dict(faster(json.loads(line) for line in lines if line))
    for op, ratio in found.items():
        first, times = ("cuda", ratio) if ratio > 1 else ("triton", 1 / ratio)
        yield f"{op}: {first} goes first, {times:.2f} times as fast"
    if not found or architecture is None:
        yield "nothing was timed with both backends, the order stays"
        return
    known = read(file)
    own = known.setdefault(architecture, {})
    for op, ratio in found.items():
        own |= dict.fromkeys(ROOMS.get(op, (op,)), "cuda" if ratio > 1 else "triton")
    write_text(file, json.dumps(known, indent=1, sort_keys=True) + "\n")


def faster(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """(op, how many times as fast as Triton CUDA is), the geometric mean over an op's cases."""
    ratios: dict[str, list[float]] = {}
    for record in records:
        if record["backend"] == "cuda" and record["against"] == "triton" and record["ratio"]:
            ratios.setdefault(record["op"], []).append(log(record["ratio"]))
    for op, logarithms in ratios.items():
        yield op, exp(fsum(logarithms) / len(logarithms))
