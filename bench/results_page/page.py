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
    return f"Kernels: `{path}`" if source.is_of_kernels else study_of(path).title


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
    if folder != Path(".") and (results / folder / "README.md").exists():
        parts.append(f"[More on its own page]({folder.as_posix()}/README.md)")
    if source.is_of_kernels and (report := results / folder / REPORT).exists():
        lines = report.read_text(encoding="utf-8").splitlines()
        parts.append("\n".join(f"- {line}" for line in lines if line.startswith(QUOTED)))
    return [part for part in parts if part]


def _pictures(source: Source, results: Path, shown: set[Path]) -> list[str]:
    """Those of the folder, below the first record of theirs."""
    pictures = sorted((results / source.path.parent).glob("*.png"))
    chosen = [picture for picture in pictures if picture not in shown]
    shown.update(chosen)
    return [f"![{p.stem}]({p.relative_to(results).as_posix()})" for p in chosen]
