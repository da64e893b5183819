"""Records as a table for people."""

from collections.abc import Iterable

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
        ("of roof", "right"),
        ("against", "left"),
        ("its ms", "right"),
        ("ratio", "right"),
    ):
        made.add_column(column, justify=justify, no_wrap=True)
    notes: dict[str, None] = {}  # each once, in order
    for record in records:
        case = Case(record.op, **record.case)
        name, theirs = record.against or "", ""
        if record.against_ms:
            theirs = spread(record.against_ms)
        if record.against_check not in (None, PASSED):
            name += "*"
            notes[f"* {case}: {record.against}: {record.against_check}"] = None
        for absent, reason in record.not_against.items():
            notes[f"not against {absent}: {reason}"] = None
        made.add_row(
            str(case),
            spread({key: getattr(record, key) for key in ("median_ms", "p20_ms", "p80_ms")}),
            f"{record.share_of_roof:.0%}",
            name,
            theirs,
            "" if record.ratio is None else f"{record.ratio:.2f}x",
        )
    made.caption = "\n".join(notes) or None
    return made


def spread(ms: dict[str, float]) -> str:
    """`1.23 (1.20-1.31)`: the median and the middle three fifths."""
    return "{median_ms:.3g} ({p20_ms:.3g}-{p80_ms:.3g})".format(**ms)
