"""`python -m qlora.demo.compare`: does a 4-bit base cost accuracy? QLoRA against 16-bit LoRA.

The same sentences, steps and adapters for both, with several seeds; only the base differs. A run
that is finished is not repeated, and one that was interrupted goes on where it was.
"""

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from qlora.demo.experiment import PACKAGES, STEPS, Experiment
from qlora.demo.fetch import fetch_model
from qlora.evaluate import EvaluateSettings, evaluate_file
from qlora.provenance import provenance
from qlora.train.trainer import train
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text

Format = Literal["nf4", "none"]
NAMES: dict[Format, str] = {"nf4": "QLoRA, NF4 base", "none": "LoRA, 16-bit base"}


@dataclass(frozen=True)
class Outcome:
    """What one finished run reached on the test sentences."""

    format: Format
    seed: int
    steps: int
    accuracy: float
    loss: float
    num_test_rows: int
    train_seconds: float


@dataclass(frozen=True)
class Summary:
    """One format over the seeds; `spread` is the sample standard deviation, of one seed None."""

    mean: float
    spread: float | None
    accuracies: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; returns the exit code."""
    options = _parse(arguments)
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    console = Console(highlight=False)
    try:
        model = fetch_model(partial(console.print, soft_wrap=True))
        outcomes = []
        for experiment in experiments(model, options):
            if (outcome := run_once(experiment, console)) is None:
                console.print("interrupted; the same command goes on from here")
                return 130
            outcomes.append(outcome)
    except InputError as error:
        print(f"qlora: {error}", file=sys.stderr)
        return 2
    summaries = summarize(outcomes)
    console.print(describe(summaries))
    path = write_record(options.output, outcomes, summaries)
    console.print(f"written to {path}", soft_wrap=True)
    return 0


def experiments(model: Path, options: argparse.Namespace) -> list[Experiment]:
    """Every format with every seed, each in a folder of its own."""
    return [
        Experiment(
            model,
            options.folder / f"{name}-seed-{seed}-steps-{options.steps}",
            seed,
            options.steps,
            name,
        )
        for seed in options.seeds
        for name in NAMES
    ]


def run_once(experiment: Experiment, console: Console) -> Outcome | None:
    """Train and judge, or read what that gave before; None where training was interrupted."""
    done = experiment.folder / "outcome.json"
    if done.exists():
        return Outcome(**json.loads(done.read_text(encoding="utf-8")))
    console.print(f"\n{NAMES[experiment.format]}, seed {experiment.seed}", style="bold")
    experiment.write_data()
    result = train(replace(experiment.settings, resume="auto"), console)
    if result.signal:
        return None
    judged = evaluate_file(
        EvaluateSettings(
            experiment.model, experiment.data("test"), result.adapter, experiment.format
        )
    )["adapter"]
    outcome = Outcome(
        format=experiment.format,
        seed=experiment.seed,
        steps=experiment.steps,
        accuracy=judged.accuracy or 0.0,
        loss=judged.loss,
        num_test_rows=judged.num_examples,
        train_seconds=round(result.seconds, 1),
    )
    write_text(done, json.dumps(asdict(outcome)) + "\n")
    console.print(f"right on the test sentences: {outcome.accuracy:.1%}")
    return outcome


def summarize(outcomes: Sequence[Outcome]) -> dict[Format, Summary]:
    """Mean and spread per format."""
    summaries = {}
    for name in NAMES:
        values = tuple(outcome.accuracy for outcome in outcomes if outcome.format == name)
        spread = statistics.stdev(values) if len(values) > 1 else None
        summaries[name] = Summary(statistics.mean(values), spread, values)
    return summaries


def difference_points(summaries: dict[Format, Summary]) -> float:
    """QLoRA's mean accuracy minus 16-bit LoRA's, in points of a hundred."""
    return 100 * (summaries["nf4"].mean - summaries["none"].mean)


def describe(summaries: dict[Format, Summary]) -> Table:
    """Both accuracies and their difference, for people."""
    points = difference_points(summaries)
    table = Table(
        title="Right on held-out templates",
        caption=f"QLoRA minus 16-bit LoRA: {points:+.1f} points",
    )
    for column in ("", "mean", "spread", "each seed"):
        table.add_column(column, justify="left" if column in ("", "each seed") else "right")
    for name, summary in summaries.items():
        spread = "-" if summary.spread is None else f"{summary.spread:.1%}"
        each = "  ".join(f"{value:.1%}" for value in summary.accuracies)
        table.add_row(NAMES[name], f"{summary.mean:.1%}", spread, each)
    return table


def write_record(path: Path, outcomes: Sequence[Outcome], summaries: dict[Format, Summary]) -> Path:
    """Write the numbers and where they come from as JSON."""
    record = {
        **provenance(PACKAGES),
        "difference_points": difference_points(summaries),
        "summary": {name: asdict(summary) for name, summary in summaries.items()},
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    return write_text(path, json.dumps(record, indent=2) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="qlora demo compare", description="QLoRA against 16-bit LoRA on the demo's task."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-compare"))
    parser.add_argument(
        "--output", type=Path, default=Path("bench/results/demo-compare/result.json")
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
