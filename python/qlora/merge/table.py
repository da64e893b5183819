"""A merge as text: it needs no package, as merging needs none."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qlora.merge.report import MergeReport

if TYPE_CHECKING:
    from qlora.evaluation import Evaluation


def describe(report: MergeReport) -> str:
    """The adapters, then the kinds of layers, then what to know before using the result."""
    notes = [f"note: {note}" for note in report.notes]
    return "\n".join([report.title, "", _adapters(report), "", _layers(report), *notes])


def describe_matrix(matrix: "Mapping[str, Mapping[str, Evaluation]]") -> str:
    """Who on which task: exact matches and loss."""
    header = [""]
    for task in next(iter(matrix.values())):
        header += [f"{task}: exact", "loss"]
    rows = [header]
    for name, results in matrix.items():
        row = [name]
        for result in results.values():
            exact = "-" if result.accuracy is None else f"{result.accuracy:.1%}"
            row += [exact, f"{result.loss:.4f}"]
        rows.append(row)
    return aligned(rows)


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Columns two spaces apart, the first to the left, the others to the right, under a header."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _adapters(report: MergeReport) -> str:
    """What each brings, and how much of it is in the result."""
    overall = report.overall
    rows = [["adapter", "weight", "norm", "present", *(f"cos {n}" for n in report.adapters)]]
    for i, name in enumerate(report.adapters):
        cosines = [f"{value:.3f}" for value in overall["cosine"][i]]
        numbers = f"{report.weights[i]:g}", f"{overall['norms'][i]:.4g}"
        rows.append([name, *numbers, f"{overall['present'][i]:.1%}", *cosines])
    return aligned(rows)


def _layers(report: MergeReport) -> str:
    kinds = {**report.by_kind(), "all": report.overall}
    header = ["layers", "", "rank", "energy", "error", "interference", "conflict", "minority mass"]
    return aligned([header, *([kind, *_cells(found)] for kind, found in kinds.items())])


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
