"""A merge on the screen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from qlora.merge.report import MergeReport

if TYPE_CHECKING:
    from qlora.evaluation import Evaluation


def print_report(console: Console, report: MergeReport) -> None:
    """The adapters, then the kinds of layers, then what to know before using the result."""
    console.print(report.title, soft_wrap=True)
    console.print(_adapters(report))
    console.print(_kinds(report))
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)


def print_matrix(console: Console, matrix: "Mapping[str, Mapping[str, Evaluation]]") -> None:
    """Who on which task: exact matches and loss."""
    table = Table("")
    for task in next(iter(matrix.values())):
        table.add_column(f"{task}\nexact", justify="right")
        table.add_column("\nloss", justify="right")
    for name, results in matrix.items():
        cells = []
        for result in results.values():
            exact = "-" if result.accuracy is None else f"{result.accuracy:.1%}"
            cells += [exact, f"{result.loss:.4f}"]
        table.add_row(name, *cells)
    console.print(table)


def _adapters(report: MergeReport) -> Table:
    """What each brings, and how much of it is in the result."""
    overall = report.overall
    table = Table("adapter")
    for column in ("weight", "norm", "present", *(f"cos {n}" for n in report.adapters)):
        table.add_column(column, justify="right")
    for i, name in enumerate(report.adapters):
        cosines = [f"{value:.3f}" for value in overall["cosine"][i]]
        numbers = f"{report.weights[i]:g}", f"{overall['norms'][i]:.4g}"
        table.add_row(name, *numbers, f"{overall['present'][i]:.1%}", *cosines)
    return table


def _kinds(report: MergeReport) -> Table:
    table = Table("layers")
    numbers = ("energy\nkept", "error", "inter-\nference", "sign\nconflict", "minority\nmass")
    for column in ("", "rank", *numbers):
        table.add_column(column, justify="right")
    for kind, found in report.by_kind().items():
        table.add_row(kind, *_cells(found))
    table.add_section()
    table.add_row("all", *_cells(report.overall))
    return table


def _cells(numbers: Mapping[str, Any]) -> list[str]:
    low, high = numbers["rank"]
    return [
        str(numbers["layers"]),
        str(low) if low == high else f"{low}-{high}",
        f"{numbers['energy']:.2%}",
        f"{numbers['error']:.2e}" if numbers["error"] < 1e-3 else f"{numbers['error']:.3f}",
        f"{numbers['interference']:.1%}",
        f"{numbers['sign_conflict']:.1%}",
        f"{numbers['minority_mass']:.1%}",
    ]
