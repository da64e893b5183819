"""Loading a causal language model and its tokenizer from this machine: a folder or a GGUF file.

Nothing is downloaded, and no code that comes with a model is run.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers import logging as transformers_logging

import qlora_kernels as qk
from qlora.quantize.stored import METHOD, load_stored, stored_method
from qlora_kernels.checks import check_choice
from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder
from qlora_kernels.formats.adapter_folder import AdapterFolder, read_adapter_folder
from qlora_kernels.nn.embedding_files import beside_factors

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Processors with an instruction for bf16 products; others emulate it slower than they do fp32.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM
CPUINFO = Path("/proc/cpuinfo")

WEIGHTS = ("*.safetensors", "*.bin")


def load_model(path: str | Path, dtype: str = "auto") -> tuple[PreTrainedModel, Any]:
    """Load `(model, tokenizer)` from a Hugging Face folder or a .gguf file, in eval mode.

    `dtype` is "float32", "bfloat16", "float16", or "auto": what `compute_dtype` says for the CPU or
    the first GPU. The weights of a GGUF file are dequantized; a folder of `qlora quantize` gives a
    model of QLoRALinear layers over its codes, for `prepare_model` with the same format. Raises
    InputError for a place that holds no model, files that cannot be read, tensors that are missing,
    and an unknown dtype.
    """
    path = Path(path)
    check_choice("load_model", "dtype", dtype, ("auto", *DTYPES))
    _check_place(path)
    options: dict[str, Any] = {
        "dtype": compute_dtype() if dtype == "auto" else DTYPES[dtype],
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported below, in one line
    }
    if path.suffix == ".gguf":
        options["quantization_config"] = GgufConfig(dequantize=True)
    with _quiet_transformers():
        if stored_method(path) == METHOD:
            model = load_stored(path, options["dtype"])
            return model.eval(), _from_pretrained(AutoTokenizer, path)
        model, report = _from_pretrained(AutoModelForCausalLM, path, **options)
        _check_report(path, report)
        return model.eval(), _from_pretrained(AutoTokenizer, path)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer alone, of a folder (which needs no weights) or a .gguf file.

    Raises InputError for a place that holds none.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"load_tokenizer: {path} should be a folder or .gguf file, is absent")
    with _quiet_transformers():
        return _from_pretrained(AutoTokenizer, path)


def load_tuned(
    path: str | Path,
    adapter: str | Path | None,
    base: qk.QLoRAConfig,
    dtype: str = "auto",
) -> tuple[PreTrainedModel, Any]:
    """Load `(model, tokenizer)` to use what `qlora train` made, on the first GPU or the CPU.

    The model gets the base format of `base` and the adapter of a peft folder (None: none), with
    all that the folder holds: modules trained whole, adapters of embeddings and head, rows of
    tokens, biases. Raises InputError as `load_model` does, and for an adapter that does not fit.
    """
    model, tokenizer = load_prepared(path, [] if adapter is None else [adapter], base, dtype)
    if adapter is not None:
        qk.load_adapter(model, adapter)
    return model, tokenizer


def load_prepared(
    path: str | Path,
    adapters: Sequence[str | Path],
    base: qk.QLoRAConfig,
    dtype: str = "auto",
) -> tuple[PreTrainedModel, Any]:
    """Load `(model, tokenizer)` with a place for each of the adapters and none of them in it yet.

    It computes what the base does until `qk.load_adapter` gives it one of them.
    """
    folders = [read_adapter_folder(adapter) for adapter in adapters]
    model, tokenizer = load_model(path, dtype)
    qk.prepare_model(model, _with_places(model, folders, base))
    if torch.cuda.is_available():
        cast(nn.Module, model).to("cuda")
    return model, tokenizer


def _with_places(
    model: PreTrainedModel, folders: Sequence[AdapterFolder], base: qk.QLoRAConfig
) -> qk.QLoRAConfig:
    """`base`, with the head and embeddings that folders adapt, and the modules that they hold."""
    adapted = {name for folder in folders for name in (*folder.layers, *folder.embeddings)}
    head = model.get_output_embeddings()
    special = {n for n, m in model.named_modules() if m is head or isinstance(m, nn.Embedding)}
    whole = {name.rpartition(".")[0] for folder in folders for name in beside_factors(folder)}
    return replace(
        base,
        targets=sorted(adapted & special),
        modules_to_save=sorted(whole),
        untie=bool(adapted & special or whole),
    )


def compute_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, else float32.

    `device` is the first GPU where there is one, else the CPU, unless given.
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if kind == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = bool(BF16_FLAGS & _processor_flags())
    return torch.bfloat16 if has_bf16 else torch.float32


def convert(gguf: str | Path, folder: str | Path) -> Path:
    """Write a GGUF file as a Hugging Face folder in bfloat16, which loads much faster.

    The folder is whole or absent; returns it.
    """
    model, tokenizer = load_model(gguf, "bfloat16")
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return Path(folder)


def _check_place(path: Path) -> None:
    """Refuse what cannot be a model before transformers answers with a page about its hub."""
    if not path.exists():
        raise InputError(f"load_model: {path} should be a model folder or .gguf file, is absent")
    if path.is_file():
        with path.open("rb") as file:
            if path.suffix != ".gguf" or file.read(4) != b"GGUF":
                raise InputError(f"load_model: {path} should be a folder or GGUF file, is neither")
        return
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"load_model: {path} should hold config.json, does not") from error
    except ValueError as error:
        raise InputError(f"load_model: {path / 'config.json'} should be JSON: {error}") from error
    if not any(next(path.glob(pattern), None) for pattern in WEIGHTS):
        raise InputError(
            f"load_model: {path} should hold weights ({' or '.join(WEIGHTS)}), has none"
        )


def _check_report(path: Path, report: dict[str, Any]) -> None:
    """Refuse a model of which transformers had to invent a part."""
    if missing := sorted(report["missing_keys"]):
        count = f"lacks {len(missing)}, the first is {missing[0]}"
        raise InputError(f"load_model: {path} should hold every tensor of the model, {count}")
    for name, stored, wanted in sorted(report["mismatched_keys"]):
        shapes = f"should have the shape {list(wanted)} of config.json, was {list(stored)}"
        raise InputError(f"load_model: {path}: {name} {shapes}")
    if unused := sorted(report["unexpected_keys"]):
        logger.warning("%s: %d tensors have no use, as %s", path, len(unused), unused[0])


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No tables: what matters in them is checked and told in one line. No bars in a log file."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _from_pretrained(kind: Any, path: Path, **options: Any) -> Any:
    folder = path
    if path.suffix == ".gguf":
        folder, options["gguf_file"] = path.parent, path.name
    try:
        return kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # whatever a library raises about a file, the file is at fault
        reason = " ".join(str(error).split()).split(". ")[0]
        reason = f"{type(error).__name__}: {reason}"
        raise InputError(f"load_model: {kind.__name__} cannot read {path}: {reason}") from error


def _processor_flags() -> set[str]:
    """Features of the first processor; none where the system has no such file."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":")[1].split())
    return set()
