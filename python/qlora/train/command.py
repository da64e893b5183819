"""`qlora train`."""

import argparse
import json
import logging
import sys
from dataclasses import asdict

from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments
from qlora.train.from_adapter import settings_of
from qlora.train.settings import TrainSettings

HELP = """\
Fine-tune a causal LM: its base stays frozen in 4 bits, small adapters learn.

Writes the adapter with the best validation loss (peft's format), checkpoints, metrics and a plot
of them to --output. Ctrl-C and SIGTERM save a checkpoint first; --resume auto goes on from it, bit
for bit. Exit codes: 0 done, 1 diverged, 2 bad input, 130 or 143 interrupted."""

EXAMPLES = """\
examples:
  qlora train --model SmolLM2-135M-Instruct --data train.jsonl --output runs/first
  qlora train --model model.gguf --data book.txt --steps 200 --learning-rate 1e-4
  qlora train --config runs/first/settings.yaml --resume auto
  qlora train --model model.gguf --data new.jsonl --from-adapter runs/first/adapter \\
      --replay train.jsonl:0.2 --output runs/second"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, TrainSettings)
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON, the rest on stderr"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    settings = from_arguments(TrainSettings, arguments)
    if settings.from_adapter:  # whose rank, layers and so on stand for those that nobody gave
        settings = from_arguments(TrainSettings, arguments, settings_of(settings.from_adapter))
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)  # the report says it shorter,
    logging.getLogger("qlora.data").setLevel(logging.ERROR)  # and the lints longer
    from rich.console import Console  # the rest takes seconds to import

    from qlora.train.action import Diverged
    from qlora.train.result import describe_end
    from qlora.train.trainer import train

    try:
        result = train(settings, Console(stderr=arguments.json))
    except Diverged as failure:
        print(f"qlora train: {failure}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(asdict(result), default=str))
    else:
        print(describe_end(result))
    return 128 + result.signal if result.signal else 0
