"""The roofline: operations per byte against operations per second, ours and the peers'."""

from collections.abc import Sequence
from pathlib import Path

from bench.kernels.record import Record


def roofline(records: Sequence[Record], path: Path) -> Path:
    """A PNG of all records of one run; the roof is that of its first record's dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    roof = records[0].settings["roof"]
    bandwidth, rate = roof["read_gb_per_s"], roof["matrix_gflop_per_s"]
    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        mine = points.setdefault(record.backend, [])
        mine.append((record.intensity, 1e-6 * record.num_flops / record.median_ms))
        if record.against and record.against_ms:
            theirs = points.setdefault(record.against, [])
            achieved = 1e-6 * record.num_flops / record.against_ms["median_ms"]
            theirs.append((record.intensity, achieved))
    every = [x for series in points.values() for x, _ in series]
    edges = [min(every) / 2, rate / bandwidth, max(*every, rate / bandwidth) * 2]
    axes.plot(edges, [min(x * bandwidth, rate) for x in edges], color="black", label="roof")
    for name, series in points.items():
        axes.scatter(*zip(*series, strict=True), label=name, s=20)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    axes.set_title(f"{records[0].op}: {_machine(records[0])}")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def _machine(record: Record) -> str:
    machine = record.origin["machine"]
    return str(machine.get("gpu", machine["cpu"]))
