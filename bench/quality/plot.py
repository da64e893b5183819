"""Pictures of the runs: every seed a dot, their mean a mark, the 95 % interval a bar."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.quality.finished import Results
from bench.quality.frontier import MEMBERS, forgotten, trained_percent
from bench.quality.intervals import interval
from bench.quality.plan import CONFIGURATIONS

BLUE, GRAY = "#2b6cb0", "#9aa5b1"
COLOURS = ("#555555", "#b7791f", "#dd6b20", "#805ad5", "#2b6cb0", "#2f855a", "#0987a0", "#c53030")
NOTHING = 1e-3  # percent: where the picture puts what trains nothing
SPREAD = 1.13  # methods that train equally many parameters stand beside each other
TICKS = {NOTHING: "0", 1e-2: "0.01", 1e-1: "0.1", 1.0: "1", 10.0: "10", 100.0: "100"}
Dots = tuple[str, list[float]]  # a title, and a value of each seed


def plot_methods(results: Results, path: Path) -> Path:
    """A panel per task that has runs; configurations without one are left out."""
    from matplotlib.figure import Figure

    panels = {task: shown for task in ("intents", "python") if (shown := _right(results, task))}
    tall = 1.0 + sum(0.7 + 0.34 * len(shown) for shown in panels.values())
    figure = Figure(figsize=(9, tall), layout="constrained")
    heights = [1 + len(shown) for shown in panels.values()] or [1]
    found = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (task, shown) in zip(found, panels.items(), strict=False):
        _rows(axes, shown)
        axes.set_xlabel(f"{task}: right answers to held-out rows, %")
    figure.suptitle("Each dot a seed, the line their mean, the bar its 95 % interval", fontsize=10)
    figure.savefig(path, dpi=130)
    return path


def _right(results: Results, task: str) -> list[Dots]:
    chosen = [
        (one.title, results[name]) for name, one in CONFIGURATIONS.items() if one.task == task
    ]
    shares = [(title, [100 * r["right"] for r in rows if "right" in r]) for title, rows in chosen]
    return [(title, values) for title, values in shares if values]


def _rows(axes: Any, shown: Sequence[Dots]) -> None:
    values = [value for _, each in shown for value in each]
    low, high = min(values), max(values)
    for place, (_, each) in enumerate(shown):
        found = interval(each)
        if found.half is not None:
            axes.barh(place, 2 * found.half, 0.5, found.mean - found.half, color=BLUE, alpha=0.18)
        axes.plot([found.mean] * 2, [place - 0.3, place + 0.3], color=BLUE, linewidth=2)
        axes.scatter(each, [place] * len(each), s=16, color=BLUE, zorder=3)
    room = max(4.0, 0.15 * (high - low))  # an interval of two seeds may be wider than the picture
    axes.set_xlim(max(0.0, low - room), min(101.0, high + room))
    axes.set_yticks(range(len(shown)), [title for title, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    _bare(axes, "x")


def plot_frontier(results: Results, path: Path) -> Path:
    """Trained share against right answers, peak memory and what is forgotten; empty panels go."""
    from matplotlib.figure import Figure

    reads: dict[str, Callable[[str], list[float]]] = {
        "right answers, %": lambda name: [100 * row["right"] for row in results[name]],
        "peak memory of training, MiB": lambda name: [
            row["peak_mib"] for row in results[name] if "peak_mib" in row
        ],
        "forgotten: nats per token of English": lambda name: [
            row["forgotten"] for row in forgotten(results[name], results)
        ],
    }
    ran = [name for name in MEMBERS if results[name]]
    panels = {title: read for title, read in reads.items() if any(map(read, ran))}
    figure = Figure(figsize=(1 + 4.6 * max(1, len(panels)), 4.8), layout="constrained")
    found = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axes, (title, read) in zip(found, panels.items(), strict=False):
        for name in ran:
            if values := read(name):
                _point(axes, name, _percent(name, ran, results), values)
        axes.set(xscale="log", xlabel="trained parameters, %", ylabel=title)
        axes.set_xticks(list(TICKS), list(TICKS.values()))
        axes.set_xlim(NOTHING / 2, 200)
        _bare(axes, "both")
    figure.suptitle("Small dots are seeds; bars the 95 % interval of three or more", fontsize=10)
    handles, labels = found[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    return path


def _percent(name: str, ran: Sequence[str], results: Results) -> float:
    """Where a method stands: beside those before it that train about as many parameters."""
    mine = max(NOTHING, trained_percent(results[name], results))
    shares = [trained_percent(results[other], results) for other in ran[: ran.index(name)]]
    return mine * SPREAD ** sum(abs(share / mine - 1) < SPREAD - 1 for share in shares)


def _point(axes: Any, name: str, x: float, values: Sequence[float]) -> None:
    colour = COLOURS[list(MEMBERS).index(name)]
    found = interval(values)
    if found.half is not None and len(values) > 2:  # of two seeds it would be all that one sees
        axes.errorbar(x, found.mean, yerr=found.half, color=colour, alpha=0.6, capsize=3)
    axes.scatter([x] * len(values), values, s=10, color=colour, alpha=0.5, linewidths=0)
    mark = {"s": 60, "color": colour, "edgecolors": "white", "zorder": 3}
    axes.scatter(x, statistics.mean(values), label=CONFIGURATIONS[name].title, **mark)


def _bare(axes: Any, grid: str) -> None:
    """No more lines than a reader needs."""
    axes.grid(axis=grid, color=GRAY, alpha=0.25)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
