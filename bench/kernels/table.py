"""Records as a table for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from bench.kernels.case import Case
from bench.kernels.check import PASSED
from bench.kernels.record import Record


def table(records: Iterable[Record], title: str) -> Table:
    """A row per record; a peer that failed its check is marked and explained below."""
    made = Table(title=title, title_justify="left")
    for column, justify in (
        ("case", "left"),
        ("ms (p20-p80)", "right"),
        ("of runs", "right"),
        ("of roof", "right"),
        ("against", "left"),
        ("its ms", "right"),
        ("ratio", "right"),
        ("of runs", "right"),
    ):
        made.add_column(column, justify=justify, no_wrap=True)
    notes: dict[str, None] = {}  # each once, in order
    for record in records:
        num_runs, runs = len(record.runs), record.between_runs or {}
        case = Case(record.op, **record.case)
        name, theirs = record.against or "", ""
        if record.against_ms:
            theirs = spread(record.against_ms, num_runs)
        if record.against_check not in (None, PASSED):
            name += "*"
            notes[f"* {case}: {record.against}: {record.against_check}"] = None
        for absent, reason in record.not_against.items():
            notes[f"not against {absent}: {reason}"] = None
        made.add_row(
            str(case),
            spread(asdict(record), num_runs),
            between(runs.get("median_ms")),
            f"{record.share_of_roof:.0%}",
            name,
            theirs,
            "" if record.ratio is None else f"{record.ratio:.2f}x",
            between(runs.get("ratio"), ".2f"),
        )
    made.caption = "\n".join(notes) or None
    return made


def spread(ms: Mapping[str, Any], num_runs: int = 1) -> str:
    """`1.23 (1.20-1.31)`: the median and the middle three fifths; `1.23, 1 call` where slow."""
    if ms.get("rounds") == num_runs:  # the oldest records do not tell
        return f"{ms['median_ms']:.3g}, 1 call" + " a run" * (num_runs > 1)
    return "{median_ms:.3g} ({p20_ms:.3g}-{p80_ms:.3g})".format(**ms)


def between(ends: Sequence[float] | None, form: str = ".3g") -> str:
    """`1.19-1.25`: the least and the most of several runs' medians."""
    return "" if ends is None else f"{ends[0]:{form}}-{ends[1]:{form}}"
