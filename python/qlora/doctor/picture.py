"""This run's curves beside a healthy one's and those of the failure that it resembles."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qlora.doctor.curves import Curves, Series
from qlora.doctor.curves.series import Numbers
from qlora.doctor.diagnosis import Diagnosis
from qlora.doctor.references import references
from qlora_kernels.files import write_atomically

TRAIN, VALIDATION, QUIET = "#2f6fb0", "#d1661f", "#8a8f98"
HIGHEST = 2.0  # times the start: a loss above is cut off, so that the rest stays readable
SMOOTHING_SHARE = 0.05  # of the records, around each
TEXT_WIDTH = 125  # characters of a line under the title
SENTENCES = 2  # of the evidence, under the title


@dataclass(frozen=True, eq=False)
class Panel:
    """One column: whose curves, and under which title."""

    title: str
    curves: Curves


def draw(curves: Curves, diagnosis: Diagnosis, path: Path) -> Path:
    """Two or three columns, loss over gradient norm; a PNG file."""
    panels = panels_for(curves, diagnosis)
    figure = Figure(figsize=(4.6 * len(panels), 6.4), dpi=130, layout="constrained")
    figure.suptitle(_title(diagnosis), x=0.01, ha="left", fontsize=11)
    rows = figure.subplots(2, len(panels), sharey="row", squeeze=False, height_ratios=(3, 2))
    for column, panel in enumerate(panels):
        _draw_loss(rows[0][column], panel)
        _draw_norm(rows[1][column], panel.curves.gradient_norm)
    top = max(axes.dataLim.y1 for axes in rows[0])
    bottom = min(axes.dataLim.y0 for axes in rows[0])
    rows[0][0].set_ylim(bottom - 0.05, min(top, HIGHEST) + 0.05)
    rows[0][0].set_ylabel("loss / loss at the start")
    rows[1][0].set_ylabel("gradient norm / its median")
    rows[1][0].set_yscale("log")
    rows[0][1].legend(frameon=False, fontsize=8)  # the healthy run has both curves
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def panels_for(curves: Curves, diagnosis: Diagnosis) -> list[Panel]:
    """This run, a healthy one, and the first finding's failure, if there is one on record."""
    known = references()
    panels = [Panel("this run", curves), Panel("a healthy run", known["healthy"])]
    for finding in diagnosis.findings[:1]:
        if finding.cause in known:
            panels.append(Panel(f"a run with {finding.cause}", known[finding.cause]))
    return panels


def _title(diagnosis: Diagnosis) -> str:
    if diagnosis.healthy:
        return "healthy: nothing that was looked at speaks for a fault"
    first = diagnosis.findings[0]
    lines = [f"{first.cause}, confidence {first.confidence:.0%}: {first.title}"]
    for sentence in first.evidence[:SENTENCES]:
        lines += textwrap.wrap(sentence, TEXT_WIDTH)
    return "\n".join(lines)


def _draw_loss(axes: Axes, panel: Panel) -> None:
    training, validation = panel.curves.training.finite, panel.curves.validation.finite
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.axhline(1.0, color=QUIET, linewidth=0.8, linestyle=":")
    if len(training):
        start = float(training.values[0]) or 1.0
        values = training.values / start
        window = max(1, round(len(values) * SMOOTHING_SHARE))
        axes.plot(training.steps, values, color=TRAIN, linewidth=0.7, alpha=0.35)
        axes.plot(
            training.steps, _smooth(values, window), color=TRAIN, linewidth=1.8, label="training"
        )
        if len(validation):
            axes.plot(
                validation.steps,
                validation.values / start,
                color=VALIDATION,
                marker="o",
                markersize=3.5,
                linewidth=1.3,
                label="validation",
            )
    _tidy(axes)


def _smooth(values: Numbers, window: int) -> Numbers:
    """Median of each value and those around it: a single bad batch leaves no mark."""
    padded = numpy.pad(values, (window // 2, (window - 1) // 2), mode="edge")
    windows = numpy.lib.stride_tricks.sliding_window_view(padded, window)
    medians: Numbers = numpy.median(windows, axis=1)
    return medians


def _draw_norm(axes: Axes, norms: Series) -> None:
    norms = norms.finite
    if len(norms) and numpy.median(norms.values) > 0:
        values = norms.values / numpy.median(norms.values)
        axes.plot(norms.steps, values, color=TRAIN, linewidth=1.0)
    else:
        text = "no gradient" if len(norms) else "not recorded"
        axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes, color=QUIET)
    axes.set_xlabel("step")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
