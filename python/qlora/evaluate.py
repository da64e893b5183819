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
from qlora.storage import Format, base_config
from qlora_kernels.errors import InputError

if TYPE_CHECKING:
    from qlora.data import Example
    from qlora.evaluation import Evaluation

HELP = """\
Measure a model on a data set: mean loss and perplexity over the tokens to be learned and, for
prompts and conversations, how many answers greedy decoding would reproduce exactly.

With --adapter, base and adapter stand side by side. Nothing is generated: an answer is exact if
every token of it, the end included, is the model's first choice after the true ones before it."""

EXAMPLES = """\
examples:
  qlora evaluate --model SmolLM2-135M-Instruct --data test.jsonl
  qlora evaluate --model model.gguf --adapter runs/first/adapter --data test.jsonl --json"""


@dataclass(frozen=True)
class EvaluateSettings:
    """One evaluation; every field is a flag and a key of `--config`."""

    model: Path = field(metadata={"help": "Hugging Face folder or .gguf file of a causal LM"})
    data: Path = field(metadata={"help": "a .txt or .jsonl file, as for training"})
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

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        _ = self.layers  # checks its own part
        for name, least in (("sequence_length", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"evaluate: {name} should be at least {least}, was {value}")

    @property
    def layers(self) -> qk.QLoRAConfig:
        """What `prepare_model` is told; the adapter's own file says the rest."""
        return base_config(self)


def evaluate_file(settings: EvaluateSettings) -> "dict[str, Evaluation]":
    """Evaluate `base` and, if there is one, `adapter` on a data file; raises InputError."""
    from qlora.data.encode import pad_token  # with transformers: seconds to import
    from qlora.evaluation import evaluate
    from qlora.models import load_prepared

    adapters = [settings.adapter] if settings.adapter else []
    model, tokenizer = load_prepared(settings.model, adapters, settings.layers)
    rows = read_rows(settings, model, tokenizer)
    how = pad_token(tokenizer), settings.batch_size
    results = {"base": evaluate(model, rows, *how)}
    for adapter in adapters:
        qk.load_adapter(model, adapter)
        results["adapter"] = evaluate(model, rows, *how)
    return results


def read_rows(settings: EvaluateSettings, model: Any, tokenizer: Any) -> "list[list[Example]]":
    """The rows of the data file as the model will see them; raises InputError."""
    from qlora.data import pack, read_examples
    from qlora.objective import vocabulary_size
    from qlora.probe import check_model

    length = settings.sequence_length
    examples = read_examples(settings.data, tokenizer, length, vocab_size=vocabulary_size(model))
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
    results = evaluate_file(settings)
    if arguments.json:
        values = {name: asdict(result) for name, result in results.items()}
        print(json.dumps({**asdict(settings), "results": values}, default=str))
        return 0
    _print_table(settings, results)
    return 0


def _print_table(settings: EvaluateSettings, results: "dict[str, Evaluation]") -> None:
    from rich.console import Console
    from rich.table import Table

    base = results["base"]
    table = Table("")
    for column in ("loss", "perplexity", "exact match"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        exact = "-" if result.accuracy is None else f"{result.accuracy:.1%}"
        table.add_row(name, f"{result.loss:.4f}", f"{result.perplexity:.4g}", exact)
    console = Console(highlight=False)
    console.print(
        f"{settings.model.name} ({settings.format}) on {settings.data.name}:"
        f" {base.num_examples:,} examples, {base.num_tokens:,} tokens to be learned",
        soft_wrap=True,
    )
    console.print(table)
