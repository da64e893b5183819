"""Right answers of every trained configuration, with the intervals over the seeds."""

from pathlib import Path

from bench.quality.finished import Results
from bench.quality.intervals import interval
from bench.quality.plan import CONFIGURATIONS


def plot_methods(results: Results, path: Path) -> Path:
    """One panel per task; configurations without a run are left out."""
    from matplotlib.figure import Figure

    tasks = ("intents", "python")
    shown = {
        task: [
            (one.title, interval([100 * row["right"] for row in results[name] if "right" in row]))
            for name, one in CONFIGURATIONS.items()
            if one.task == task and any("right" in row for row in results[name])
        ]
        for task in tasks
    }
    tall = 1.5 + 0.3 * sum(map(len, shown.values()))
    figure = Figure(figsize=(9, tall), layout="constrained")
    counts = [max(1, len(shown[task])) for task in tasks]
    for axes, task in zip(figure.subplots(len(tasks), 1, height_ratios=counts), tasks, strict=True):
        found = shown[task]
        means = [i.mean for _, i in found]
        axes.barh(range(len(found)), means, xerr=[i.half or 0 for _, i in found])
        axes.set_yticks(range(len(found)), [title for title, _ in found])
        axes.invert_yaxis()
        axes.set(xlabel=f"{task}: right answers to held-out rows, %")
    figure.savefig(path, dpi=110)
    return path
