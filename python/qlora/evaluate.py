"""`qlora evaluate`: loss, perplexity and exact-match accuracy, of the base and of an adapter."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

import argparse
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qlora_kernels as qk
from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments, setting
from qlora.slices import Comparison, compare, findings, rows_of
from qlora.storage import Format, base_config
from qlora_kernels.errors import InputError

if TYPE_CHECKING:
    from qlora.data import Example
    from qlora.evaluation import Evaluation

HELP = """\
Measure a model on a data set: mean loss and perplexity over the tokens to be learned and, for
prompts and conversations, how many answers greedy decoding would reproduce exactly.

With --adapter, base and adapter stand side by side. With --slice instead of --data, on several
files, each with the difference and its 95 % interval: what was learned, and what was lost for it.
Nothing is generated: an answer is exact if
every token of it, the end included, is the model's first choice after the true ones before it."""

EXAMPLES = """\
examples:
  qlora evaluate --model SmolLM2-135M-Instruct --data test.jsonl
  qlora evaluate --model model.gguf --adapter runs/first/adapter --data test.jsonl --json
  qlora evaluate --model model.gguf --adapter runs/second/adapter \\
      --against runs/first/adapter --slice old=first-test.jsonl --slice new=second-test.jsonl"""


@dataclass(frozen=True)
class EvaluateSettings:
    """One evaluation; every field is a flag and a key of `--config`."""

    model: Path = field(metadata={"help": "Hugging Face folder or .gguf file of a causal LM"})
    data: Path | None = setting(None, "a .txt or .jsonl file, as for training")
    adapter: Path | None = setting(
        None, "adapter folder in peft's format, to compare with the base"
    )
    format: Format = setting("nf4", "storage of the base, as in training; none leaves it as it is")
    format_pattern: dict[str, Format] | None = setting(
        None, "another storage for some layers, as in training: down_proj=int8"
    )
    block_size: int = setting(64, "weights that share one scale, as in training")
    double_quant: bool = setting(True, "quantize the scales too, as in training")
    scale_search: bool = setting(False, "search each block's scale, as in training")
    sequence_length: int = setting(512, "tokens in a row; longer examples are cut")
    packing: bool = setting(True, "fill rows with several examples, which do not see each other")
    batch_size: int = setting(4, "rows in one forward pass")
    slice: dict[str, Path] | None = setting(
        None, "instead of --data: files to compare on, each with a name: old=a.jsonl new=b.jsonl"
    )
    against: Path | None = setting(
        None, "adapter folder to compare with instead of the base: the one that training began from"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        _ = self.layers  # checks its own part
        if (self.data is None) == (not self.slice):
            given = "both" if self.slice else "neither"
            raise InputError(f"evaluate: --data or --slice should be given, was {given}")
        if self.against and not self.adapter:
            raise InputError("evaluate: --adapter should be given beside --against, was not")
        for name, least in (("sequence_length", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"evaluate: {name} should be at least {least}, was {value}")

    @property
    def layers(self) -> qk.QLoRAConfig:
        """What `prepare_model` is told; the adapter's own file says the rest."""
        return base_config(self)


def evaluate_file(settings: EvaluateSettings) -> "dict[str, Evaluation]":
    """Evaluate `base` and, if there is one, `adapter` on the data file; raises InputError."""
    [comparison] = evaluate_slices(settings).values()
    results = {"base": comparison.base}
    return results | ({"adapter": comparison.adapter} if comparison.adapter else {})


def evaluate_slices(settings: EvaluateSettings) -> dict[str, Comparison]:
    """Name -> base (or what is compared with) and adapter; a data file has its own name.

    Raises InputError.
    """
    from qlora.data.encode import pad_token  # with transformers: seconds to import
    from qlora.evaluation import evaluate_examples
    from qlora.models import load_prepared

    adapters = [path for path in (settings.against, settings.adapter) if path]
    model, tokenizer = load_prepared(settings.model, adapters, settings.layers)
    if settings.against:
        qk.load_adapter(model, settings.against)
    sets = {name: read_rows(settings, path, model, tokenizer) for name, path in files(settings)}
    how = pad_token(tokenizer), settings.batch_size
    base = {name: evaluate_examples(model, rows, *how) for name, rows in sets.items()}
    if not settings.adapter:
        return {name: Comparison(found[0]) for name, found in base.items()}
    qk.load_adapter(model, settings.adapter)
    return {n: compare(base[n], evaluate_examples(model, r, *how)) for n, r in sets.items()}


def files(settings: EvaluateSettings) -> list[tuple[str, Path]]:
    """The slices, or the data file under its own name."""
    if settings.slice:
        return list(settings.slice.items())
    assert settings.data is not None
    return [(settings.data.name, settings.data)]


def read_rows(
    settings: EvaluateSettings, path: Path, model: Any, tokenizer: Any
) -> "list[list[Example]]":
    """The rows of a data file as the model will see them; raises InputError."""
    from qlora.data import pack, read_examples
    from qlora.objective import vocabulary_size
    from qlora.probe import check_model

    length = settings.sequence_length
    examples = read_examples(path, tokenizer, length, vocab_size=vocabulary_size(model))
    check_model(model, length, settings.packing)
    return pack(examples, length) if settings.packing else [[example] for example in examples]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, EvaluateSettings)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print; returns the exit code."""
    settings = from_arguments(EvaluateSettings, arguments)
    logging.getLogger("qlora_kernels").setLevel(logging.WARNING)
    comparisons = evaluate_slices(settings)
    if arguments.json:
        print(json.dumps({**asdict(settings), **_as_values(settings, comparisons)}, default=str))
    else:
        _print_table(settings, comparisons)
    return 0


def _as_values(settings: EvaluateSettings, comparisons: dict[str, Comparison]) -> dict[str, Any]:
    """`results` by model, or `slices` by name, model or difference, and measure."""
    if settings.slice:
        return {"slices": {name: asdict(found) for name, found in comparisons.items()}}
    [found] = comparisons.values()
    results = {"base": asdict(found.base)}
    return {"results": results | ({"adapter": asdict(found.adapter)} if found.adapter else {})}


def _print_table(settings: EvaluateSettings, comparisons: dict[str, Comparison]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name, path in files(settings):
        base = comparisons[name].base
        told = f"{settings.model.name} ({settings.format}) on {path.name}:"
        counts = f"{base.num_examples:,} examples, {base.num_tokens:,} tokens to be learned"
        console.print(told, counts, soft_wrap=True)
    table = Table("", "")
    before = "before" if settings.against else "base"
    for column in (before, *(("adapter", "difference") if settings.adapter else ())):
        table.add_column(column, justify="right")
    for name, comparison in comparisons.items():
        for number, row in enumerate(rows_of(comparison)):
            cells = row if settings.adapter else row[:2]
            table.add_row("" if number else name, *cells)
        table.add_section()
    console.print(table)
    for finding in findings(comparisons, dict(files(settings))):
        console.print(finding, soft_wrap=True)
