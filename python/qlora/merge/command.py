"""`qlora merge`: several adapters to one."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

import argparse
import json
import logging
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import qlora_kernels as qk
from qlora.merge.files import check_places, merge_adapters, write_report
from qlora.merge.methods import METHODS
from qlora.merge.progress import shown
from qlora.merge.report import MergeReport
from qlora.merge.spec import MergeSpec
from qlora.merge.table import describe, describe_matrix
from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments, setting
from qlora.storage import Format, base_config
from qlora_kernels.errors import InputError

METHOD_LINES = "\n".join(f"  {name:16} {method.formula}" for name, method in METHODS.items())

HELP = f"""\
Merge adapters of one model into one adapter, which costs at inference what a single one costs.

What is merged are the updates t = s B A that the adapters add to the weights (with DoRA the
effective change, for which --base is needed), never A and B apart: the result does not depend on
how an update was factored, nor on the order of the folders. A layer that an adapter lacks is a zero
update. Methods, over the updates t and the weights w, all times lambda:
{METHOD_LINES}

The sum of low-rank updates is low-rank: average and task-arithmetic with --rank full are exact, and
at most as large as the adapters together. The other methods give matrices of full rank: choose a
rank, and see in the report how much of the result it keeps.

The folder of --output gets the adapter, report.json and heat_map.png. In the report, per layer:
present is the share of an adapter's update that is in the result; interference the share of the
energy that cancels when the weighted updates are added (negative: they help each other); sign
conflict the share of entries in which two updates pull in opposite directions."""

EXAMPLES = """\
examples:
  qlora merge runs/maths/adapter runs/chat/adapter -o merged
  qlora merge a b c --method ties --density 0.2 --rank 32 -o merged
  qlora merge a b --method task-arithmetic --weights 1,-0.5 --rank energy:0.99 -o merged
  qlora merge a b --model base --eval-data maths=maths.jsonl chat=chat.jsonl -o merged"""


@dataclass(frozen=True)
class MergeSettings(MergeSpec):
    """One merge; every field is a flag and a key of `--config`."""

    adapters: tuple[Path, ...] = setting(
        (), "folders of adapters in peft's format", positional=True
    )
    output: Path | None = setting(None, "folder for the result; should not exist yet", short="-o")
    base: Path | None = setting(None, "model folder that DoRA adapters were trained on")
    model: Path | None = setting(None, "base model for --eval-data: a folder or .gguf file")
    eval_data: dict[str, Path] | None = setting(
        None, "tasks as NAME=FILE: measure base, adapters and merge on each"
    )
    format: Format = setting("nf4", "storage of the base, as in training; none leaves it as it is")
    format_pattern: dict[str, Format] | None = setting(
        None, "another storage for some layers, as in training: down_proj=int8"
    )
    block_size: int = setting(64, "weights that share one scale, as in training")
    double_quant: bool = setting(True, "quantize the scales too, as in training")
    scale_search: bool = setting(False, "search each block's scale, as in training")

    @property
    def spec(self) -> MergeSpec:
        """What is merged how, without the places."""
        return MergeSpec(**{item.name: getattr(self, item.name) for item in fields(MergeSpec)})

    @property
    def layers(self) -> qk.QLoRAConfig:
        """How the base is stored."""
        return base_config(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, MergeSettings)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Merge, report, evaluate; returns the exit code."""
    settings = from_arguments(MergeSettings, arguments)
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    stream = sys.stderr if arguments.json else sys.stdout
    report = _merge(settings)
    print(describe(report), file=stream)
    if settings.eval_data:
        report = _evaluate(settings, report)
        print("", describe_matrix(report.evaluation), sep="\n", file=stream)
    print(f"\nwritten to {settings.output}", file=stream)
    if arguments.json:
        print(json.dumps(report.to_dict()))
    return 0


def _merge(settings: MergeSettings) -> MergeReport:
    from qlora.merge.base import BaseWeights
    from qlora.merge.matrix import check_tasks

    if settings.output is None:
        raise InputError("merge: --output should be a folder for the result, was not given")
    check_places(settings.adapters, settings.output)
    check_tasks(settings.eval_data or {}, settings.model)
    base = BaseWeights(settings.base, settings.layers) if settings.base else None
    with shown() as watch:
        return merge_adapters(settings.adapters, settings.output, settings.spec, base, watch)


def _evaluate(settings: MergeSettings, report: MergeReport) -> MergeReport:
    """The report with the matrix of `--eval-data`, in the folder too."""
    from qlora.evaluate import EvaluateSettings
    from qlora.merge.matrix import evaluate_matrix

    assert settings.output and settings.model and settings.eval_data  # checked before merging
    how = EvaluateSettings(
        settings.model,
        data=next(iter(settings.eval_data.values())),
        format=settings.format,
        format_pattern=settings.format_pattern,
        block_size=settings.block_size,
        double_quant=settings.double_quant,
        scale_search=settings.scale_search,
    )
    adapters = dict(zip(report.adapters, settings.adapters, strict=True))
    with shown() as watch:
        everyone = {**adapters, "merged": settings.output}
        matrix = evaluate_matrix(how, settings.eval_data, everyone, watch)
    report = replace(report, evaluation=matrix)
    write_report(report, settings.output)
    return report
