"""Figures of a configuration's runs as the cells of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.merging.table import markdown
from bench.quality.intervals import Interval, interval
from bench.quality.plan import SEEDS

Rows = Sequence[Mapping[str, Any]]


def counted(rows: Rows) -> str:
    """`2 of 3`: how many seeds have run."""
    return f"{len(rows)} of {len(SEEDS)}"


def ran_table(head: Sequence[str], lines: Sequence[Sequence[str]], absent: Sequence[str]) -> str:
    """What ran as a table, and the rest by its titles below."""
    parts = [markdown(head, lines)] * bool(lines)
    parts += [f"Not run yet: {'; '.join(absent)}."] * bool(absent)
    return "\n\n".join(parts)


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
