"""`python -m bench merging`: train the adapters of the study."""

import argparse
import logging
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.merging.recipe import STEPS, Recipe
from bench.merging.train import trained
from bench.merging.wordnet import fetch_wordnet
from qlora.demo.fetch import fetch_model

HELP = """\
Train adapters on two real tasks and in two styles of answering, merge them, and measure what is
left of each. What is trained already is kept, so an interrupted study goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--tasks", nargs="+", default=list(STEPS), choices=STEPS, metavar="TASK")
    parser.add_argument("--folder", type=Path, default=Path("runs/merging"), metavar="PATH")


def run(arguments: argparse.Namespace) -> int:
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    console = Console(highlight=False)
    model = fetch_model(partial(console.print, soft_wrap=True))
    wordnet = fetch_wordnet(console.print)
    for seed in arguments.seeds:
        for task in arguments.tasks:
            if trained(Recipe(model, arguments.folder, task, seed), wordnet, console) is None:
                return 130
    return 0
