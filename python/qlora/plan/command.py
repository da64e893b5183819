"""`qlora plan`: what a fine-tune will take in memory."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from qlora.plan.config_file import read_architecture
from qlora.plan.history import table
from qlora.plan.memory import Forecast
from qlora.plan.settings import METHODS, PlanSettings
from qlora.plan.text import Answer, plan_lines, table_lines
from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments
from qlora_kernels.errors import InputError

HELP = """\
What a fine-tune will take in memory, by component and method, before anything is downloaded:
config.json is all that is read, or a name says it (llama-7b, qwen-7b, ...).

codes and scales are the quantized base; embeddings, with the head, stay 16-bit. Activations grow
with --batch-size x --sequence-length: --gradient-checkpointing keeps one tensor per block of them.
Adapters, gradients and optimizer grow with --rank. Logits are never whole: the loss runs in chunks.

With --memory, the table ends with what fits: the longest sequence, the largest batch and the
highest rank, each with the other settings as given, and flags that would make a method fit. A GPU
has less for us than its label says: --reserve 1GB. Figures are computed from formulas, which
qlora/plan/memory.py states; they are not measured."""

EXAMPLES = """\
examples:
  qlora plan llama-8b --memory 24GB --reserve 1GB
  qlora plan models/mine --method qlora --sequence-length 4096 --gradient-checkpointing
  qlora plan llama-65b --rank 64 --optimizer paged-adamw --memory 48GB --json
  qlora plan --table --plot memory.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --table, --plot, --json."""
    add_settings(parser, PlanSettings)
    parser.add_argument(
        "--table", action="store_true", help="65B weights by each method, beside quoted figures"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw --table over the years")
    parser.add_argument("--json", action="store_true", help="print bytes for programs")


def run(arguments: argparse.Namespace) -> int:
    """Plan and print; returns the exit code."""
    settings = from_arguments(PlanSettings, arguments)
    if arguments.table:
        if settings != PlanSettings():
            raise InputError("plan: --table should come alone, came with settings of a plan")
        _print_table(arguments.plot, arguments.json)
        return 0
    if arguments.plot is not None:
        raise InputError("plan: --plot should come with --table, came without")
    if settings.model is None:
        raise InputError("plan: MODEL (or --table) should be given, was missing")
    model = read_architecture(settings.model)
    methods = settings.method or METHODS
    answers = [Answer(Forecast(model, settings, method)) for method in methods]
    if arguments.json:
        record = {"model": asdict(model), "weights": model.weights, "settings": asdict(settings)}
        record["methods"] = {a.forecast.method: a.record() for a in answers}
        print(json.dumps(record))
    else:
        _print(plan_lines(answers))
    return 0


def _print_table(plot: Path | None, as_json: bool) -> None:
    rows = table()
    _print([json.dumps({"rows": [row.record() for row in rows]})] if as_json else table_lines(rows))
    if plot is not None:
        from qlora.plan.picture import draw  # with matplotlib, which a plain install lacks

        draw(rows, plot)
        if not as_json:
            print(f"written: {plot}")


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines))
