"""The 65B table as a picture: gigabytes over the years of the methods."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from qlora.plan.history import Row
from qlora_kernels.files import write_atomically

WIDTH = 0.32  # of a bar, in the distance of two methods


def draw(rows: Sequence[Row], path: Path) -> Path:
    """Two bars for each method: what is quoted and what the planner says; a PNG file."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    for shift, label, values in (
        (-WIDTH / 2, "quoted", [row.quoted_gb for row in rows]),
        (WIDTH / 2, "predicted", [row.predicted_gb for row in rows]),
    ):
        bars = axes.bar([place + shift for place in places], values, WIDTH, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=10)
    axes.set_xticks(list(places), [f"{row.method}\n{row.year}" for row in rows])
    axes.set_ylabel("GB (log scale)")
    axes.set_title("fine-tuning 65B weights: memory by method", fontsize=10)
    axes.legend()
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
