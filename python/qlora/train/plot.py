"""The curves of a run as a picture: loss above, gradient norm below."""

from collections.abc import Sequence
from pathlib import Path

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qlora.train.rows import EvaluationRow, Row, StepRow, WarningRow
from qlora_kernels.files import write_atomically

TRAIN, VALIDATION, WARNING, QUIET = "#2f6fb0", "#d1661f", "#b3202c", "#8a8f98"
WIDE = 20.0  # norms that differ by more are drawn on a logarithmic axis
SMOOTHING_SHARE = 0.05  # of the run's steps, averaged around each


def draw_curves(rows: Sequence[Row], path: Path, title: str, max_norm: float = 0.0) -> Path:
    """Draw the rows of a run into a PNG; needs at least one step. Returns `path`."""
    steps = [row for row in rows if isinstance(row, StepRow)]
    evaluations = [row for row in rows if isinstance(row, EvaluationRow)]
    warnings = [row for row in rows if isinstance(row, WarningRow)]
    figure = Figure(figsize=(9, 6.5), dpi=150, layout="constrained")
    loss, norm = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(title, fontsize=13, fontweight="bold")
    _draw_loss(loss, steps, evaluations)
    _draw_norm(norm, steps, max_norm)
    for axes in (loss, norm):
        for number, warning in enumerate(warnings):
            label = "warning" if number == 0 else None
            axes.axvline(warning.step, color=WARNING, linewidth=1, linestyle=":", label=label)
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.align_ylabels()
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _draw_loss(axes: Axes, steps: list[StepRow], evaluations: list[EvaluationRow]) -> None:
    places, values = [row.step for row in steps], [row.loss for row in steps]
    axes.plot(places, values, color=TRAIN, linewidth=0.8, alpha=0.35, label="training, each step")
    axes.plot(places, smoothed(values), color=TRAIN, linewidth=1.8, label="training, smoothed")
    if evaluations:
        axes.plot(
            [row.step for row in evaluations],
            [row.loss for row in evaluations],
            color=VALIDATION,
            marker="o",
            markersize=4,
            linewidth=1.4 if len(evaluations) > 2 else 0,  # two points are no curve
            label="validation",
        )
        best = min(evaluations, key=lambda row: row.loss)
        label = f"best: {best.loss:.4f} after step {best.step}"
        axes.plot(best.step, best.loss, "*", color=VALIDATION, markersize=12, zorder=5, label=label)
    axes.set_title("Loss", loc="left", fontsize=11)
    axes.set_ylabel("mean of -log p per token")


def _draw_norm(axes: Axes, steps: list[StepRow], max_norm: float) -> None:
    places, norms = [row.step for row in steps], [row.gradient_norm for row in steps]
    axes.plot(places, norms, color=TRAIN, linewidth=1.2, label="before clipping")
    if max_norm:
        axes.axhline(
            max_norm, color=QUIET, linestyle="--", linewidth=1, label=f"clipped at {max_norm:g}"
        )
    if 0 < WIDE * min(norms) < max(norms):
        axes.set_yscale("log")
    axes.set_title("Gradient norm", loc="left", fontsize=11)
    axes.set_ylabel("norm of all adapters")
    axes.set_xlabel("step")


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value and its neighbours, as many as exist within the window."""
    reach = round(len(values) * SMOOTHING_SHARE / 2)
    sums = numpy.cumsum([0.0, *values])
    places = numpy.arange(len(values))
    first, last = (places - reach).clip(0), (places + reach + 1).clip(max=len(values))
    means: list[float] = ((sums[last] - sums[first]) / (last - first)).tolist()
    return means
