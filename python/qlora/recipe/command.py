"""`qlora recipe`: settings for a data file, each with its reason, and what is wrong with it."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from qlora.lint import describe
from qlora.recipe.document import Recipe
from qlora.recipe.settings import RecipeSettings
from qlora.recipe.survey import Survey, survey
from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments
from qlora.train.settings import TrainSettings

HELP = """\
A recipe for a data file: all settings that matter as YAML, with a reason beside each, which
`qlora train --config` reads. It is also what a bare `qlora train` does: whatever is not given there
follows the number of examples by the same rules.

What is wrong with the data is told on stderr: duplicates, leakage between training and validation,
few examples; with --model, through its tokenizer, also truncation, examples with nothing to learn,
missing ends, doubled beginnings, and scripts that the base hardly knows. No weights are read."""

EXAMPLES = """\
examples:
  qlora recipe train.jsonl > recipe.yaml
  qlora recipe train.jsonl --model SmolLM2-135M-Instruct --validation test.jsonl > recipe.yaml
  qlora train --config recipe.yaml --output runs/first
  qlora recipe train.jsonl --json"""

UNKNOWN = Path("MODEL")  # stands for the model that nobody named yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, RecipeSettings)
    parser.add_argument(
        "--json", action="store_true", help="print settings, reasons and notices for programs"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at the data, print the recipe; returns the exit code."""
    settings = from_arguments(RecipeSettings, arguments)
    assert settings.data is not None
    told = TrainSettings(
        model=settings.model or UNKNOWN,
        data=settings.data,
        validation=settings.validation,
        sequence_length=settings.sequence_length,
    )
    seen = survey(settings, told)
    recipe = Recipe.of(told, seen.num_examples)
    if arguments.json:
        print(json.dumps(_record(recipe, seen, settings.model is None), default=str))
        return 0
    if seen.notices:
        print(describe(seen.notices), file=sys.stderr)
    without = ("model",) if settings.model is None else ()
    print("\n".join([*_head(settings, seen), "", *recipe.lines(without)]))
    return 0


def _head(settings: RecipeSettings, seen: Survey) -> list[str]:
    about = "" if seen.exact else "about "
    pieces = f" (pieces of {settings.sequence_length} tokens)" if seen.documents else ""
    lines = [f"# A recipe for {settings.data}: {about}{seen.num_examples:,} examples{pieces}"]
    for notice in seen.notices:  # their evidence, texts of any kind, is told on stderr alone
        lines += [f"# {notice.kind}: {notice.message}", f"#   -> {notice.fix}"]
    model = " --model MODEL" if settings.model is None else ""
    return [*lines, f"# qlora train --config recipe.yaml{model} --output runs/first"]


def _record(recipe: Recipe, seen: Survey, lacks_model: bool) -> dict[str, object]:
    values = {n: v for n, v in recipe.values.items() if not (lacks_model and n == "model")}
    return {
        "settings": values,
        "reasons": {name: recipe.reasons[name] for name in values},
        "num_examples": seen.num_examples,
        "exact": seen.exact,
        "notices": [asdict(notice) for notice in seen.notices],
    }
