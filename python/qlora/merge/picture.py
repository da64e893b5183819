"""A merge as a picture: one heat map per quantity, blocks across, kinds of layers down."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qlora.merge.measure import LayerReport
from qlora.merge.report import MergeReport
from qlora_kernels.files import write_atomically

NUMBER = re.compile(r"\.(\d+)\.")
COLUMN_INCHES, ROW_INCHES, MOST_TICKS = 0.3, 0.28, 16
LEAST_REACH = 0.01  # of a colour map, so that rounding does not look like a pattern


def draw_heat_map(report: MergeReport, path: Path) -> Path:
    """Draw cosine, interference, sign conflict, error and what is present of each adapter."""
    grid = _Grid([layer.name for layer in report.layers])
    panels = _panels(report)
    width = max(6.0, 2.2 + COLUMN_INCHES * len(grid.columns))
    height = len(panels) * (0.95 + ROW_INCHES * len(grid.rows)) + 0.6
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    figure.suptitle(f"{' + '.join(report.adapters)}\n{report.title}", fontsize=10)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        _draw(axes, grid, panel)
    rows[-1].set_xlabel("block")
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


Panel = tuple[str, list[float], bool]  # title, a value per layer, whether it has a sign


def _panels(report: MergeReport) -> list[Panel]:
    layers = report.layers
    panels: list[Panel] = []
    if len(report.adapters) > 1:
        cosine = [_mean_cosine(layer) for layer in layers]
        panels.append(("cosine between adapters (mean of the pairs)", cosine, True))
        interference = [layer.interference for layer in layers]
        panels.append(("interference: share of the energy that cancels", interference, True))
        conflict = [layer.sign_conflict for layer in layers]
        panels.append(("sign conflict: share of the entries", conflict, False))
    panels.append(("relative error of the rank", [layer.error for layer in layers], False))
    for place, name in enumerate(report.adapters):
        present = [layer.present[place] for layer in layers]
        panels.append((f"present of {name} (1: all of its update)", present, True))
    return panels


def _mean_cosine(layer: LayerReport) -> float:
    pairs = [layer.cosine[i][j] for i in range(len(layer.cosine)) for j in range(i)]
    return sum(pairs) / len(pairs)


class _Grid:
    """Where each layer stands: the number in its name is the column, the rest the row."""

    def __init__(self, names: Sequence[str]) -> None:
        found = [NUMBER.search(name) for name in names]
        blocks = [int(match[1]) if match else 0 for match in found]
        kinds = [NUMBER.sub(".*.", name, count=1) for name in names]
        self.columns = sorted(set(blocks))
        self.rows = list(dict.fromkeys(kinds))
        self.labels = [kind.rpartition(".*.")[2] for kind in self.rows]
        self.cells = [
            (self.rows.index(kind), self.columns.index(block))
            for kind, block in zip(kinds, blocks, strict=True)
        ]


def _draw(axes: Axes, grid: _Grid, panel: Panel) -> None:
    title, values, signed = panel
    table = numpy.full((len(grid.rows), len(grid.columns)), numpy.nan)
    for cell, value in zip(grid.cells, values, strict=True):
        table[cell] = value
    top = max(LEAST_REACH, *map(abs, values))
    colours, bottom = ("RdBu_r", -top) if signed else ("viridis", 0.0)
    image = axes.imshow(table, cmap=colours, vmin=bottom, vmax=top, aspect="auto")
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_yticks(range(len(grid.rows)), grid.labels, fontsize=7)
    places = range(0, len(grid.columns), -(-len(grid.columns) // MOST_TICKS))
    axes.set_xticks(places, [str(grid.columns[place]) for place in places], fontsize=7)
    axes.figure.colorbar(image, ax=axes, pad=0.01).ax.tick_params(labelsize=7)
