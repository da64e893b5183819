"""What a lint has to say: what is wrong, how it was seen, what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """One finding about the data or the settings; never an error, since people may mean it."""

    kind: str  # "leakage", "truncation", ...: stable, for programs
    message: str  # one sentence with its number, and what it leads to
    evidence: tuple[str, ...]  # a line each: places, examples, counts
    fix: str  # one line


def describe(notices: Iterable[Notice]) -> str:
    """For people: each notice, its evidence and its fix beneath it."""
    lines = []
    for notice in notices:
        lines.append(f"{notice.kind}: {notice.message}")
        lines += [f"    {line}" for line in notice.evidence]
        lines.append(f"  -> {notice.fix}")
    return "\n".join(lines)


def share(part: int, whole: int) -> str:
    """`3 of 1,200 (0.2%)`: never 0% of what there is, nor 100% where some is not."""
    percent = 100 * part / whole
    if 1 <= percent <= 99 or part == whole:
        text = f"{percent:.0f}"
    elif percent < 1:
        text = f"{percent:.1g}"
    else:
        text = f"{percent:.1f}" if percent < 99.95 else "over 99.9"
    return f"{part:,} of {whole:,} ({text}%)"


def quoted(text: str, length: int = 60) -> str:
    """The beginning of a text on one line, in quotation marks."""
    flat = " ".join(text.split())
    return f'"{flat}"' if len(flat) <= length else f'"{flat[: length - 1]}…"'
