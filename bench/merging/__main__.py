"""`python -m bench.merging`: train the adapters of the study."""

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.merging.recipe import STEPS, Recipe
from bench.merging.train import trained
from bench.merging.wordnet import fetch_wordnet
from qlora.demo.fetch import fetch_model
from qlora_kernels.errors import InputError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.merging", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--tasks", nargs="+", default=list(STEPS), choices=STEPS, metavar="TASK")
    parser.add_argument("--folder", type=Path, default=Path("runs/merging"))
    options = parser.parse_args()
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    console = Console(highlight=False)
    try:
        model = fetch_model(partial(console.print, soft_wrap=True))
        wordnet = fetch_wordnet(console.print)
        for seed in options.seeds:
            for task in options.tasks:
                if trained(Recipe(model, options.folder, task, seed), wordnet, console) is None:
                    return 130
    except InputError as error:
        print(f"merging: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
