"""`python -m qlora.demo`: the whole way of a QLoRA fine-tune, told while it happens."""

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from qlora.demo.experiment import STEPS, Experiment
from qlora.demo.fetch import fetch_model
from qlora.demo.story import Story
from qlora_kernels.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="qlora demo",
        description="Fine-tune a 4-bit SmolLM2 to tell what a smart home is asked to do.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of sentences, adapters and order")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="training steps (default %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), help="folder of the results"
    )
    options = parser.parse_args(arguments)
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    console = Console(highlight=False)
    try:
        model = fetch_model(partial(console.print, soft_wrap=True))
        experiment = Experiment(model, options.output, options.seed, options.steps)
        return Story(experiment, console).tell()
    except InputError as error:
        print(f"qlora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qlora: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
