"""The confusion matrix as a picture, and a curve of each kind of run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.doctor.matrix import HEALTHY, Matrix, fully_known, matrix_of

Runs = Sequence[Mapping[str, Any]]


def draw(runs: Runs, path: Path) -> Path:
    """Write the picture, without a display: counts, and each fault's validation losses."""
    from matplotlib.figure import Figure

    ours = fully_known(runs)
    matrix = matrix_of(ours)
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _counts(left, matrix)
    _curves(right, [run for run in ours if run["seed"] == ours[0]["seed"]])
    figure.savefig(path, dpi=75)
    return path


def _counts(axes: Any, matrix: Matrix) -> None:
    table = [
        [matrix.counts.get((cause, name), 0) for name in matrix.named] for cause in _rows(matrix)
    ]
    axes.imshow(table, cmap="Blues", aspect="auto")
    most = max(max(row) for row in table)
    for y, row in enumerate(table):
        for x, count in enumerate(row):
            if count:
                colour = "white" if 2 * count > most else "black"
                axes.text(x, y, count, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(matrix.named)), matrix.named, rotation=40, ha="right")
    axes.set_yticks(range(len(table)), _rows(matrix))
    axes.set_xlabel("named first")
    axes.set_ylabel("injected")


def _curves(axes: Any, runs: Runs) -> None:
    for run in runs:
        curve = run["curve"]
        style = {"color": "grey", "lw": 1} if run["cause"] is None else {"lw": 1.4}
        label = "_" if run["cause"] is None else run["experiment"]
        axes.plot(curve["validation_step"], curve["validation"], label=label, **style)
    axes.set_yscale("log")
    axes.set_xlabel("step (grey: healthy runs)")
    axes.set_ylabel("validation loss, nats per token")
    axes.legend(fontsize="small", ncols=2)


def _rows(matrix: Matrix) -> list[str]:
    """Faults first, so that a perfect doctor fills the diagonal."""
    return [*(c for c in matrix.injected if c != HEALTHY), *({HEALTHY} & set(matrix.injected))]
