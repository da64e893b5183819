"""`qlora export`: what training made, as other programs read it."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import qlora_kernels as qk
from qlora.settings import add_arguments as add_settings
from qlora.settings import from_arguments, setting
from qlora.storage import Format, base_config
from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder

if TYPE_CHECKING:
    from qlora.export.plan import Plan

logger = logging.getLogger(__name__)

HELP = """\
Write an adapter, alone or merged into its base, as other programs read it.

  --to 16bit     base and adapter as one Hugging Face model, W + s B A rounded once. It is loaded
                 again and must answer as base and adapter do.
  --to 4bit      the same in 4 bits, a checkpoint that transformers loads with bitsandbytes. What is
                 smaller than half a step of the 4-bit grid is lost: how much of the update is left
                 is measured, and less than --min-retained is refused. Without --adapter: the base.
  --to adapter   the adapter as --reader wants it: peft, vllm or llama.cpp. What the reader will
                 refuse is said.

The adapter was trained on a base in 4 bits and has learnt to live with its errors, so it is merged
into that base (--base-weights dequantized), not into the weights from before (original). --format,
--block-size and --double-quant must be those of the training. Nothing is written unless all is."""

EXAMPLES = """\
examples:
  qlora export --to 16bit --model SmolLM2-135M --adapter runs/first/adapter --output merged
  qlora export --to 4bit --model SmolLM2-135M --adapter runs/first/adapter --output merged-4bit
  qlora export --to 4bit --model SmolLM2-135M --output base-4bit
  qlora export --to adapter --reader vllm --adapter runs/first/adapter --output for-vllm"""

MOST_DIFFERENCE = 0.5  # of what the adapter changes; a wrong scale or a lost layer makes more


@dataclass(frozen=True)
class ExportSettings:
    """One export; every field is a flag and a key of `--config`."""

    to: Literal["16bit", "4bit", "adapter"] = setting("16bit", "what to write, see above")
    output: Path | None = setting(None, "folder to write")
    adapter: Path | None = setting(None, "adapter folder in peft's format")
    model: Path | None = setting(None, "Hugging Face folder of the base, with safetensors")
    reader: Literal["peft", "vllm", "llama.cpp"] = setting("peft", "who will read --to adapter")
    base_weights: Literal["dequantized", "original"] = setting(
        "dequantized", "merge into the base as training saw it, or as it was before"
    )
    format: Format = setting(
        "nf4", "storage of the base, as in training; none: it was not quantized"
    )
    format_pattern: dict[str, Format] | None = setting(
        None, "another storage for some layers, as in training: down_proj=int8"
    )
    block_size: int = setting(64, "weights that share one scale, as in training")
    double_quant: bool = setting(True, "quantize the scales too, as in training")
    scale_search: bool = setting(False, "search each block's scale, as in training")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "of the dense weights, and what 4 bits mean; auto: that of the model"
    )
    min_retained: float = setting(0.9, "share of the update that must survive --to 4bit")
    verify: bool = setting(True, "load --to 16bit again and compare its answers")
    force: bool = setting(False, "write what --min-retained or the comparison refuses")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        needed = {"16bit": ("model", "adapter"), "4bit": ("model",), "adapter": ("adapter",)}
        for name in ("output", *needed[self.to]):
            if getattr(self, name) is None:
                raise InputError(f"export: --to {self.to} should have --{name}, has none")
        if self.to == "4bit" and self.format not in ("nf4", "fp4"):
            raise InputError(f"export: --to 4bit should have format nf4 or fp4, has {self.format}")
        if self.to == "4bit" and self.base_weights == "original":
            raise InputError(
                "export: --to 4bit should merge into dequantized weights, has original"
            )
        if self.model is not None and self.model.suffix == ".gguf":
            raise InputError(f"export: --model should be a Hugging Face folder, was {self.model}")
        if not 0 <= self.min_retained <= 1:
            raise InputError(f"export: min_retained should be in [0, 1], was {self.min_retained}")
        if self.to == "4bit" and self.format_pattern:
            raise InputError("export: --to 4bit should have one format, has a --format-pattern")
        _ = self.layers  # checks its own part

    @property
    def layers(self) -> qk.QLoRAConfig:
        """How the base is stored that the adapter is merged into; none: as the checkpoint is."""
        if self.base_weights == "original":
            return qk.QLoRAConfig(format="none")
        return base_config(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, and --json."""
    add_settings(parser, ExportSettings)
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Export; returns the exit code."""
    settings = from_arguments(ExportSettings, arguments)
    works = {"16bit": _to_16_bits, "4bit": _to_4_bits, "adapter": _to_adapter}
    report = works[settings.to](settings)
    if arguments.json:
        print(json.dumps(report))
    else:
        print("\n".join(_lines(report)))
    return 0


def _to_adapter(settings: ExportSettings) -> dict[str, Any]:
    from qlora.export.readers import for_reader
    from qlora_kernels.formats.adapter_folder import read_adapter_folder, write_adapter_folder

    assert settings.adapter and settings.output
    folder, refused = for_reader(read_adapter_folder(settings.adapter), settings.reader)
    write_adapter_folder(folder, settings.output)
    for line in refused:
        logger.warning("%s", line)
    return {"output": str(settings.output), "reader": settings.reader, "refused": refused}


def _to_16_bits(settings: ExportSettings) -> dict[str, Any]:
    from qlora.export.bar import Bar
    from qlora.export.checkpoint import change_config, into_16_bits, rewrite_model
    from qlora.export.plan import plan_of
    from qlora.export.verify import check, verify
    from qlora.models import DTYPES

    assert settings.model and settings.output
    plan = plan_of(settings.model, settings.adapter, settings.layers)
    dtype = DTYPES.get(settings.dtype)
    report: dict[str, Any] = {"output": str(settings.output)}
    with whole_folder(settings.output) as temporary:
        with Bar("merging") as progress:
            rewrite_model(plan, settings.model, temporary, into_16_bits(plan, dtype), progress)
        change_config(temporary, quantization_config=None, **_changes(plan, settings))
        if settings.verify:
            verification = verify(plan, settings.model, temporary)
            check(verification, float("inf") if settings.force else MOST_DIFFERENCE)
            report["verification"] = {**asdict(verification), "share": verification.share}
    return report


def _to_4_bits(settings: ExportSettings) -> dict[str, Any]:
    from qlora.export.bar import Bar
    from qlora.export.checkpoint import (
        bitsandbytes_config,
        change_config,
        into_4_bits,
        rewrite_model,
    )
    from qlora.export.plan import plan_of
    from qlora.models import DTYPES
    from qlora_kernels.nn.merging import MergeLoss, check_retained, retained

    assert settings.model and settings.output
    plan = plan_of(settings.model, settings.adapter, settings.layers)
    if plan.skeleton.transposed:
        raise InputError("export: --to 4bit should have a model of nn.Linear, has GPT-2's Conv1D")
    losses: dict[str, MergeLoss] = {}
    rewrite = into_4_bits(plan, DTYPES.get(settings.dtype), losses)
    with whole_folder(settings.output) as temporary:
        with Bar("merging") as progress:
            rewrite_model(plan, settings.model, temporary, rewrite, progress)
        check_retained("export", losses, settings.min_retained, settings.force)
        compute = "bfloat16" if settings.dtype == "auto" else settings.dtype
        change_config(
            temporary,
            quantization_config=bitsandbytes_config(plan, compute),
            **_changes(plan, settings),
        )
    layers = {name: {"retained": m.retained, "noise": m.noise} for name, m in losses.items()}
    return {"output": str(settings.output), "retained": retained(losses), "layers": layers}


def _changes(plan: "Plan", settings: ExportSettings) -> dict[str, Any]:
    """What config.json says otherwise than the base's."""
    changes: dict[str, Any] = {}
    if settings.dtype != "auto":
        changes |= {"dtype": settings.dtype, "torch_dtype": None}
    if plan.unties:
        changes["tie_word_embeddings"] = False
    return changes


def _lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    lines = [f"written: {report['output']}"]
    if check := report.get("verification"):
        lines.append(
            f"verified: logits differ by {check['difference']:.3g} (rms; at most "
            f"{check['largest']:.3g}), {check['share']:.2%} of what the adapter changes"
        )
    if layers := report.get("layers"):
        width = max(map(len, layers))
        lines.append(f"{'layer':{width}}  retained  noise")
        lines += [
            f"{name:{width}}  {loss['retained']:8.1%}  {loss['noise']:5.2f}"
            for name, loss in layers.items()
        ]
        lines.append(f"of the update as a whole {report['retained']:.1%} survive 4 bits")
    return lines
