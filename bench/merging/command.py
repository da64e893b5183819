"""`python -m bench merging`: train, merge, judge, and write what came of it."""

import argparse
import logging
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.merging.judge import Judge
from bench.merging.matrix import Matrix
from bench.merging.recipe import STEPS, Recipe
from bench.merging.record import write_record
from bench.merging.train import Trained, trained
from bench.merging.wordnet import fetch_wordnet
from qlora.demo.fetch import fetch_model

HELP = """\
Train adapters on two real tasks and in two styles of answering, merge them, and measure what is
left of each. What is done already is kept, so an interrupted study goes on: 90 minutes of one
core."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=STEPS,
        metavar="TASK",
        help=f"only train the adapters of these: {', '.join(STEPS)}",
    )
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="X", help="of the training steps, for a trial"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/merging"), metavar="PATH")
    parser.add_argument(
        "--output", type=Path, default=Path("bench/results/merging"), metavar="PATH"
    )


def run(arguments: argparse.Namespace) -> int:
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    console = Console(highlight=False)
    say = partial(console.print, soft_wrap=True)
    model = fetch_model(say)
    wordnet = fetch_wordnet(say)
    adapters: list[Trained] = []
    for seed in arguments.seeds:
        for task in arguments.tasks or STEPS:
            recipe = Recipe(model, arguments.folder, task, seed, arguments.share)
            if (adapter := trained(recipe, wordnet, console)) is None:
                say("interrupted; the same command goes on from here")
                return 130
            adapters.append(adapter)
    if arguments.tasks:
        return 0
    matrix = Matrix(arguments.folder, Judge(model, wordnet, arguments.folder / "test"), say)
    judged = {
        kind: [row for seed in arguments.seeds for row in rows(seed, seed == arguments.seeds[0])]
        for kind, rows in (("skills", matrix.skills), ("styles", matrix.styles))
    }
    path = write_record(arguments.output, adapters, judged, wordnet)
    say(f"written to {path}")
    return 0
