"""Curves of real runs to look at beside one's own: a healthy one, and one with each known fault.

`reference_curves.json` holds what the benchmark of faults recorded: name of the cause or `healthy`
-> `source`, and series as pairs of steps and values, thinned.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from qlora.doctor.curves import Curves, Series

FILE = Path(__file__).parent / "reference_curves.json"
FIELDS = ("training", "validation", "gradient_norm")
MOST_SHOWN = 120  # of a series: more than a panel can show
DIGITS = 4


@cache
def references() -> dict[str, Curves]:
    """Cause or `healthy` -> curves."""
    records = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: _read(record) for name, record in records.items()}


def to_record(curves: Curves, source: str) -> dict[str, Any]:
    """What the file holds for one run; all points, or the highest of every n."""
    return {"source": source} | {
        name: _pairs(getattr(curves, name).finite) for name in FIELDS if getattr(curves, name)
    }


def _pairs(series: Series) -> list[list[float]]:
    stride = -(-len(series) // MOST_SHOWN)
    starts = range(0, len(series), stride)
    peaks = {start + int(series.values[start : start + stride].argmax()) for start in starts}
    places = sorted({0, *peaks, len(series) - 1})
    return [[float(series.steps[i]), float(f"{series.values[i]:.{DIGITS}g}")] for i in places]


def _read(record: dict[str, Any]) -> Curves:
    found = {}
    for name in FIELDS:
        pairs = numpy.array(record.get(name, []), float).reshape(-1, 2)
        found[name] = Series(pairs[:, 0], pairs[:, 1])
    return Curves(record["source"], **found)
