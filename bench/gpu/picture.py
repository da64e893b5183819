"""All records of a run in one picture: how near to its roof each op comes, us and the peers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.outcomes import named

PANELS_PER_ROW = 3
PANEL_INCHES = (4.6, 3.2)


def picture(whole: Path, path: Path) -> str:
    """Draw the records into a PNG; one line says what became of it."""
    records = [json.loads(line) for line in whole.read_text(encoding="utf-8").splitlines()]
    try:
        import matplotlib
    except ImportError:
        return "not drawn, matplotlib is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        panels.setdefault(named(record["op"], record["backend"]), []).append(record)
    rows = -(-len(panels) // PANELS_PER_ROW)
    size = (PANELS_PER_ROW * PANEL_INCHES[0], rows * PANEL_INCHES[1])
    figure, every = plt.subplots(rows, PANELS_PER_ROW, figsize=size, squeeze=False)
    for axes, (name, shown) in zip(every.flat, panels.items(), strict=False):
        _draw(axes, name, shown)
    for axes in every.flat[len(panels) :]:
        axes.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return f"{len(records)} records in {path.name}"


def _draw(axes: Any, name: str, records: Sequence[dict[str, Any]]) -> None:
    """A row of points per contender; a case per column, in the order in which it was timed."""
    places: dict[str, int] = {}
    points: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        case = record["case"]
        label = f"{case['shape']} m={case['m']} {case['direction']}"
        at = places.setdefault(label, len(places))
        points.setdefault("ours", []).append((at, 100 * record["share_of_roof"]))
        if record["against_ms"]:
            share = 100 * record["roof_ms"] / record["against_ms"]["median_ms"]
            points.setdefault(record["against"], []).append((at, share))
    for contender, series in points.items():
        axes.scatter(*zip(*series, strict=True), label=contender, s=16)
    axes.set_title(name, fontsize=9)
    axes.set_ylabel("% of roof", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(places)), places, rotation=60, ha="right", fontsize=5)
    axes.legend(fontsize=6)
