"""What a page says of one study's record: title, command, and its figures as a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
Figures = tuple[list[str], list[list[str]]]  # the head of a table, and its lines


@dataclass(frozen=True)
class Study:
    """In title and command stand fields of the record; one that names its command is believed."""

    title: str
    command: str
    figures: Callable[[Record], Figures]

    def told_command(self, record: Record) -> str:
        return str(record.get("command") or self.command.format(**record))


def plain_figures(record: Record) -> Figures:
    """Of a record that nobody described: its rows if it has any, else its single values."""
    for value in record.values():
        rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
        if columns := list(dict.fromkeys(n for row in rows for n in row if is_plain(row[n]))):
            return columns, [[told(row.get(name)) for name in columns] for row in rows]
    named = {name: value for name, value in record.items() if is_plain(value)}
    return ["figure", "value"], [[name, told(value)] for name, value in named.items()]


def is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def told(value: object) -> str:
    """A figure with as many digits as a reader wants; nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
