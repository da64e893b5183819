"""`python -m bench doctor`: put faults into runs, let the doctor name them, count."""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.doctor.base import make_base
from bench.doctor.diagnosis import diagnosed, rejudged
from bench.doctor.experiment import Trial
from bench.doctor.matrix import HEALTHY, fully_known, matrix_of
from bench.doctor.page import verdict
from bench.doctor.record import read_record, rewrite_record, write_record
from bench.doctor.run import trained
from bench.doctor.table import EXPERIMENTS

HELP = """\
Train runs with a known fault each, and healthy ones, let `qlora doctor` examine them, and print
what it named first against what was put in.

What is done already is kept, so an interrupted study goes on. --rejudge only applies the rules of
now to the facts of a record: seconds."""

Runs = list[dict[str, Any]]

# Not 0 to 2, which bench/results/doctor/first reports: their spikes on ordinary rows, taken for bad
# data, are why the doctor looks at the rows of a jump.
SEEDS = (3, 4, 5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N")
    parser.add_argument(
        "--only", nargs="+", choices=EXPERIMENTS, metavar="NAME", help=", ".join(EXPERIMENTS)
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/doctor"), metavar="PATH")
    parser.add_argument("--output", type=Path, default=Path("bench/results/doctor"), metavar="PATH")
    parser.add_argument(
        "--rejudge", action="store_true", help="judge the facts of OUTPUT/record.json again"
    )
    parser.add_argument(
        "--remeasure", action="store_true", help="examine finished runs again, without training"
    )


def run(arguments: argparse.Namespace) -> int:
    for name, level in (("qlora_kernels", logging.WARNING), ("qlora", logging.ERROR)):
        logging.getLogger(name).setLevel(level)  # what they say of cut rows is known
    console = Console(highlight=False)
    if arguments.rejudge:
        runs = [rejudged(one) for one in read_record(arguments.output)["runs"]]
        path = rewrite_record(arguments.output, runs)
    else:
        start = perf_counter()
        whole = not arguments.folder.exists()
        if (found := examined(arguments, console)) is None:
            console.print("interrupted; the same command goes on from here")
            return 130
        runs = found
        path = write_record(arguments.output, runs, perf_counter() - start if whole else None)
    report(runs, console)
    console.print(f"written to {path}", soft_wrap=True)
    return 0


def examined(arguments: argparse.Namespace, console: Console) -> Runs | None:
    """Every trial, trained and diagnosed; None where it was interrupted."""
    chosen = arguments.only or list(EXPERIMENTS)
    runs: Runs = []
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; what matters here is in the record
        bar = progress.add_task("the base model", total=len(chosen) * len(arguments.seeds))
        base = make_base(arguments.folder)
        for seed in arguments.seeds:
            for name in chosen:
                progress.update(bar, description=f"{name}, seed {seed}")
                trial = Trial(EXPERIMENTS[name], seed, base, arguments.folder)
                if (outcome := trained(trial)) is None:
                    return None
                runs.append({**outcome, **diagnosed(trial, arguments.remeasure)})
                progress.advance(bar)
    return runs


def report(runs: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the confusion matrix of our trainer's runs, and who was taken for what."""
    matrix = matrix_of(fully_known(runs))
    causes = sorted(matrix.injected, key=lambda cause: cause == HEALTHY)
    letters = {name: str(number) for number, name in enumerate(matrix.named, start=1)}
    table = Table(title="injected against named first", caption_justify="left")
    table.add_column("injected")
    for name in matrix.named:
        table.add_column(letters[name], justify="right")
    for cause in causes:
        counts = (matrix.counts.get((cause, name), 0) for name in matrix.named)
        number = f"{letters[cause]} " if cause in letters else ""
        table.add_row(f"{number}{cause}", *(str(count or "") for count in counts))
    console.print(table)
    unnamed = [f"{n} {name}" for name, n in letters.items() if name not in matrix.injected]
    console.print("columns beside those of the rows: " + ", ".join(unnamed))
    console.print(verdict(matrix).strip("*"))
