"""bench/results/README.md: every committed record by machine, with its command, commit and date."""

from collections.abc import Sequence
from pathlib import Path

from bench.merging.table import markdown
from bench.results_page import kernels
from bench.results_page.sources import UNKNOWN, Source
from bench.results_page.studies import study_of

GENERATED = "python -m bench results --write"
REPORT = "report.txt"  # what `make gpu` printed
QUOTED = ("goal: ", "tests: RED", "sanitizer: ")


def page(found: Sequence[Source], results: Path) -> str:
    """The whole page, in Markdown."""
    parts = [
        "# What was measured",
        f"Made from the records in this folder by `{GENERATED}`; a test holds it to them. Each"
        " section names the command that makes its record again: on another machine it gives the"
        " same table with that machine's figures.",
    ]
    machines: dict[str, list[Source]] = {}
    for source in found:
        machines.setdefault(source.machine, []).append(source)
    shown: set[Path] = set()  # pictures
    for machine, theirs in machines.items():
        parts.append(f"## {machine}")
        for source in theirs:
            parts += _section(source, results)
            parts += _pictures(source, results, shown)
    return "\n\n".join(parts) + "\n"


def title(source: Source) -> str:
    path = source.path.as_posix()
    if source.is_of_kernels:
        return f"Kernels: `{path}`"
    return study_of(path).title.format(**source.origin)


def commands(source: Source) -> list[str]:
    """Those that make the record again."""
    if source.is_of_kernels:
        return kernels.commands(source.records)
    return [study_of(source.path.as_posix()).told_command(source.origin)]


def _section(source: Source, results: Path) -> list[str]:
    told = [
        f"`{command}`" if command != UNKNOWN else f"Command {UNKNOWN}"
        for command in commands(source)
    ]
    parts = [
        f"### {title(source)}",
        "  \n".join([*told, f"{source.told_origin} [Record]({source.path.as_posix()})."]),
    ]
    if source.is_of_kernels:
        parts += kernels.tables(source.records)
    else:
        parts.append(markdown(*study_of(source.path.as_posix()).figures(source.origin)))
    folder = source.path.parent
    for own in (source.path.with_suffix(".md"), folder / "README.md"):
        if own != Path("README.md") and (results / own).exists():
            parts.append(f"[More on its own page]({own.as_posix()})")
            break
    if source.is_of_kernels and (report := results / folder / REPORT).exists():
        lines = report.read_text(encoding="utf-8").splitlines()
        parts.append("\n".join(f"- {line}" for line in lines if line.startswith(QUOTED)))
    return [part for part in parts if part]


def _pictures(source: Source, results: Path, shown: set[Path]) -> list[str]:
    """Its own by name, and below the first record of a folder those that are no other record's."""
    folder = results / source.path.parent
    records = {path.stem for path in folder.glob("*.json*")} - {source.path.stem}
    pictures = sorted(p for p in folder.glob("*.png") if p.stem not in records and p not in shown)
    shown.update(pictures)
    return [f"![{p.stem}]({p.relative_to(results).as_posix()})" for p in pictures]
