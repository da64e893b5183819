"""The roofline: operations per byte against operations per second, ours and the peers'."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.kernels.record import Record

COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#805ad5", "#0987a0", "#b7791f")
MARKS = {"forward": "o", "forward+backward": "^"}
Point = tuple[float, float, str]  # operations per byte, GFLOP/s, direction


def roofline(records: Sequence[Record], path: Path) -> Path:
    """A PNG of all records of one run: a panel per dtype, each below its own roof."""
    from matplotlib.figure import Figure

    by_dtype: dict[str, list[Record]] = {}
    for record in records:
        by_dtype.setdefault(str(record.case["dtype"]), []).append(record)
    figure = Figure(figsize=(1 + 5.5 * len(by_dtype), 5), layout="constrained")
    panels = figure.subplots(1, len(by_dtype), sharex=True, sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for record in records for name in _points([record])))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for axes, (dtype, chosen) in zip(panels, by_dtype.items(), strict=True):
        points = _points(chosen)
        _roof(axes, chosen, [x for series in points.values() for x, _, _ in series])
        # Ours last, so that no peer lies on it.
        for name, series in reversed(points.items()):
            _series(axes, (name, colours[name]), series)
        axes.set(title=dtype, xlabel="operations per byte", xscale="log", yscale="log")
        axes.grid(color="#9aa5b1", alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("GFLOP/s")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=6, frameon=False)
    trains = any(record.case["direction"] != "forward" for record in records)
    marks = "; triangles: with gradients" * trains
    figure.suptitle(f"{records[0].op}: {_machine(records[0])}{marks}", fontsize=11)
    figure.savefig(path, dpi=130)
    return path


def _points(records: Sequence[Record]) -> dict[str, list[Point]]:
    """By contender, ours first."""
    found: dict[str, list[Point]] = {}
    for record in records:
        direction = str(record.case["direction"])
        times = {f"ours ({record.backend})": record.median_ms}
        if record.against and record.against_ms:
            times[record.against] = record.against_ms["median_ms"]
        for name, ms in times.items():
            point = (record.intensity, 1e-6 * record.num_flops / ms, direction)
            found.setdefault(name, []).append(point)
    return found


def _roof(axes: Any, records: Sequence[Record], intensities: Sequence[float]) -> None:
    """The highest that was measured beside one of the cases."""
    roofs: list[Any] = [record.settings["roof"] for record in records]
    bandwidth, rate = (
        max(roof[name] for roof in roofs) for name in ("read_gb_per_s", "matrix_gflop_per_s")
    )
    edges = [min(intensities) / 2, rate / bandwidth, 2 * max(*intensities, rate / bandwidth)]
    heights = [min(x * bandwidth, rate) for x in edges]
    axes.plot(edges, heights, color="black", linewidth=1.2, label="roof, as measured")


def _series(axes: Any, who: tuple[str, str], points: Sequence[Point]) -> None:
    """Forward alone as dots, with gradients as open triangles."""
    label, colour = who
    for direction, mark in MARKS.items():
        chosen = sorted({(x, y) for x, y, of in points if of == direction})
        if chosen:
            face = colour if mark == "o" else "none"
            style = {"marker": mark, "facecolors": face, "edgecolors": colour, "label": label}
            axes.scatter(*zip(*chosen, strict=True), s=24, linewidths=1, **style)
            label = "_nolegend_"  # a name stands there once


def _machine(record: Record) -> str:
    machine: Any = record.origin["machine"]
    return str(machine.get("gpu", machine["cpu"]))
