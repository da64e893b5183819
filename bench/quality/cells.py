"""Figures of a configuration's runs as the cells of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.quality.intervals import Interval, interval

MISSING = "not yet run"
Rows = Sequence[Mapping[str, Any]]


def told(rows: Rows, metric: str, form: str = ".3f") -> str:
    """`0.512 ± 0.034`: mean and half the interval; without it of one seed."""
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return told_interval(interval(values), form) if values else "-"


def told_share(rows: Rows, metric: str) -> str:
    """The same in percent."""
    values = [100 * row[metric] for row in rows if row.get(metric) is not None]
    return f"{told_interval(interval(values), '.1f')} %" if values else "-"


def told_interval(found: Interval, form: str) -> str:
    half = "" if found.half is None else f" ± {found.half:{form.lstrip('+')}}"
    return f"{found.mean:{form}}{half}"
