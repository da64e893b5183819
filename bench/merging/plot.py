"""The skills of each merge as bars, one group per merge, with the spread over the seeds."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.merging.mixes import MERGED_SKILLS, SUBTRACTED_SKILLS
from bench.merging.tasks import SKILLS


def plot(record: Mapping[str, Any], path: Path) -> Path:
    """Write the picture, without a display."""
    from matplotlib.figure import Figure

    mixes = MERGED_SKILLS | SUBTRACTED_SKILLS
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    thick = 0.4
    for shift, task in zip((-thick / 2, thick / 2), SKILLS, strict=True):
        found = [
            [100 * row["accuracy"][task] for row in record["skills"] if row["mix"] == key]
            for key in mixes
        ]
        axes.barh(
            [place + shift for place in range(len(mixes))],
            [statistics.mean(values) for values in found],
            height=thick,
            xerr=[statistics.stdev(values) if len(values) > 1 else 0 for values in found],
            label=task,
        )
    axes.set_yticks(range(len(mixes)), [mix.title for mix in mixes.values()])
    axes.invert_yaxis()
    axes.set_xlabel("exactly right answers to held-out prompts, %")
    axes.legend()
    figure.savefig(path, dpi=110)
    return path
