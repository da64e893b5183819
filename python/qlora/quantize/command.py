"""`qlora quantize`: a model folder in 4 or 8 bits."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments, setting
from qlora_kernels.errors import InputError
from qlora_kernels.formats import QuantSpec

HELP = """\
Quantize a model once, as training would each time it starts: every linear layer but the head. The
rest, config and tokenizer are copied. One tensor is in memory at a time, so the model may be larger
than memory. OUT is written whole or not at all.

train, evaluate and generate take OUT as --model and never hold its dense weights; their --format,
--block-size and --double-quant must be those given here. Other programs cannot read it (for them:
qlora export --to 4bit).

The table says what each layer lost, |w - w_q| / |w|, the worst first; OUT/report.json keeps it. For
weights of a normal distribution it is near 9 % in nf4 and 0.6 % in int8: a layer far above has
outliers, which smaller blocks, --scale-search or --format nf4-tuned make cheaper.

With --calibrate the whole model runs over a text first (at most 16,384 tokens of it), and the
search spends each block's error on inputs that are small there. The weights' own error, which the
table shows, grows; that of the answers falls, and the size stays."""

EXAMPLES = """\
examples:
  qlora quantize SmolLM2-135M -o SmolLM2-135M-nf4
  qlora quantize SmolLM2-135M -o small-loss --format nf4-tuned --calibrate prose.txt
  qlora train --model SmolLM2-135M-nf4 --data train.jsonl --output runs/first"""


@dataclass(frozen=True)
class QuantizeSettings:
    """One quantization; every field is a flag and a key of `--config`."""

    model: Path | None = setting(
        None, "Hugging Face folder of a causal LM, with safetensors", positional=True
    )
    output: Path | None = setting(None, "folder to write", short="-o")
    format: Literal["nf4", "fp4", "int8", "nf4-tuned"] = setting("nf4", "storage of the weights")
    block_size: int = setting(64, "weights that share one scale")
    double_quant: bool = setting(True, "quantize the scales too")
    scale_search: bool = setting(False, "search each block's scale for the least error (4 bits)")
    calibrate: Path | None = setting(
        None, "UTF-8 text: what its activations say of each input weighs the search's errors"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        for name, value in (("MODEL", self.model), ("--output", self.output)):
            if value is None:
                raise InputError(f"quantize: {name} should be given, was missing")
        if self.model is not None and not self.model.is_dir():
            raise InputError(f"quantize: MODEL should be a model folder, was {self.model}")
        if self.model and self.output and self.model.resolve() == self.output.resolve():
            raise InputError(f"quantize: --output should be another folder than {self.model}")
        self.spec.check("quantize")
        if self.calibrate is not None and not self.spec.ratios:
            raise InputError(
                "quantize: --calibrate should come with --scale-search or --format nf4-tuned, "
                f"came with {self.format}"
            )
        if self.calibrate is not None and not self.calibrate.is_file():
            raise InputError(f"quantize: --calibrate should be a text, was {self.calibrate}")

    @property
    def spec(self) -> QuantSpec:
        """The format of every quantized layer."""
        return QuantSpec(self.format, self.block_size, self.double_quant, self.scale_search)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, QuantizeSettings)
    parser.add_argument("--json", action="store_true", help="print report.json, not the table")


def run(arguments: argparse.Namespace) -> int:
    """Quantize and print; returns the exit code."""
    settings = from_arguments(QuantizeSettings, arguments)
    from qlora.export.bar import Bar  # with transformers: seconds to import
    from qlora.quantize.write import quantize_folder

    assert settings.model and settings.output
    with Bar("quantizing") as progress:
        report = quantize_folder(
            settings.model, settings.output, settings.spec, progress, settings.calibrate
        )
    if arguments.json:
        print(json.dumps(report))
    else:
        print("\n".join([*_lines(report), f"written: {settings.output}"]))
    return 0


def _lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    layers = report["layers"]
    width = max(map(len, [*layers, "mean"]))
    lines = [f"{'layer':{width}}  relative error"]
    lines += [f"{name:{width}}  {loss['error']:14.4%}" for name, loss in layers.items()]
    lines.append(f"{'mean':{width}}  {report['mean_error']:14.4%}")
    before, after = report["dense_bytes"], report["quantized_bytes"]
    lines.append(f"{before / 2**20:.1f} MiB of weights are {after / 2**20:.1f} MiB")
    return lines
