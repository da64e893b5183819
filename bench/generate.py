"""Greedy tokens a second: `qlora generate` over codes, and transformers over their values, dense.

What the codes stand for is exact in float32, so both must choose the same tokens there; only then
is anything timed. transformers in bfloat16 rounds otherwise and may choose others. Loading is not
part of the rates, nor is packing the head, which `qlora generate` does once; what it took is told.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qlora_kernels as qk
from qlora.decoding import decoder
from qlora.half_head import WORTH_IT_FROM, halve_head
from qlora.models import DTYPES, compute_dtype, load_model
from qlora.provenance import provenance
from qlora_kernels.errors import InputError
from qlora_kernels.files import write_text

HELP = "greedy tokens a second: ours, and transformers over the same values in 32 and 16 bits"
PACKAGES = ("qlora_kernels", "torch", "transformers")
PROMPTS = ("What is the capital of France?", "Write a sentence about the sea.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = Path("build/models/smollm2-135m-instruct")
    parser.add_argument("--model", type=Path, default=model, help="a model folder or .gguf file")
    parser.add_argument("--tokens", type=int, default=128, help="that each prompt is continued by")
    parser.add_argument("--rank", type=int, default=0, help="of an adapter on ours; 0: none")
    parser.add_argument("--rounds", type=int, default=5, help="each times every variant once")
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--output", type=Path, help="file for the record, as JSON")


def run(arguments: argparse.Namespace) -> int:
    for name in ("tokens", "rounds"):
        if (value := getattr(arguments, name)) < 1:
            raise InputError(f"generate: --{name} should be at least 1, was {value}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    models, prompts = variants(arguments.model, arguments.rank)
    start = time.perf_counter()
    is_halved = arguments.tokens >= WORTH_IT_FROM and halve_head(next(iter(models.values())))
    packing = time.perf_counter() - start if is_halved else None
    check(models, prompts, arguments.tokens)
    seconds = interleaved(models, prompts, arguments.tokens, arguments.rounds)
    made = arguments.tokens * len(prompts)
    rates = {name: made / statistics.median(times) for name, times in seconds.items()}
    record: dict[str, object] = {
        **provenance(PACKAGES),
        **{name: getattr(arguments, name) for name in ("tokens", "rank", "rounds")},
        "model": arguments.model.name,
        "threads": torch.get_num_threads(),
        "head_packing_seconds": packing,
        "tokens_per_second": rates,
        "ratios": {name: ratio(seconds, name) for name in rates if not name.startswith("ours")},
    }
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} tokens/s")
    if packing is not None:
        print(f"ours has packed its head in {packing:.2f} s, not counted above")
    for name, times in record["ratios"].items():  # type: ignore[attr-defined]
        print(f"ours is {times:.2f} times as fast as {name}")
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(record, indent=2) + "\n")
    return 0


def variants(path: Path, rank: int) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Models by name, and the prompts as tokens.

    "exact" is ours in float32, where ours is not: only its layers give values of codes unrounded.
    """
    dtype = compute_dtype()
    name = next(name for name, known in DTYPES.items() if known == dtype)
    targets: Any = "all-linear" if rank else []

    def quantized(kind: str) -> tuple[Any, Any]:
        model, tokenizer = load_model(path, kind)
        qk.prepare_model(model, qk.QLoRAConfig(rank=rank or 8, targets=targets))
        return model.eval(), tokenizer

    ours, tokenizer = quantized(name)
    exact = ours if dtype == torch.float32 else quantized("float32")[0]
    models = {f"ours nf4, {name}": ours}
    for kind in ("float32", "bfloat16"):
        dense, _ = load_model(path, kind)
        copy_values(exact, dense)
        models[f"transformers {kind}"] = dense
    if exact is not ours:
        models["exact"] = exact
    return models, [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]


@torch.no_grad()
def copy_values(ours: nn.Module, dense: nn.Module) -> None:
    """Give dense layers what the codes of ours stand for; a fresh adapter adds nothing."""
    for name, layer in ours.named_modules():
        if isinstance(layer, qk.nn.QLoRALinear):
            target = dense.get_submodule(name)
            weight: Any = target.weight
            weight.copy_(layer.dequantize())


def check(models: dict[str, Any], prompts: list[torch.Tensor], tokens: int) -> None:
    """Refuse to time what chooses other tokens than transformers over the same float32 values."""
    exact = models.pop("exact", None)
    ours = exact if exact is not None else next(iter(models.values()))
    for prompt in prompts:
        found, wanted = (
            greedy(model, prompt, tokens) for model in (ours, models["transformers float32"])
        )
        if not torch.equal(found, wanted):
            raise InputError(
                f"generate: ours should choose the tokens of transformers, {wanted.tolist()}, "
                f"chose {found.tolist()}"
            )


@torch.inference_mode()
def greedy(model: Any, prompt: torch.Tensor, tokens: int) -> torch.Tensor:
    """Exactly so many new tokens, with quantized layers as `qlora generate` makes them."""
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        custom_generate=decoder(model) if qk.nn.quantized_layers(model) else None,
    )
    found: torch.Tensor = output[0, prompt.shape[1] :]
    return found


def interleaved(
    models: Mapping[str, Any], prompts: list[torch.Tensor], tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds for all prompts, every model in turn in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        greedy(model, prompts[0], 2)  # first touches: memory, threads
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            for prompt in prompts:
                greedy(model, prompt, tokens)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], peer: str) -> float:
    """How many times faster ours is: the median over the rounds, each of which ran both."""
    ours = next(iter(seconds.values()))
    return statistics.median(p / o for o, p in zip(ours, seconds[peer], strict=True))
