"""What DoRA adds to a training step over LoRA: ours, and peft's over the same model."""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import qlora_kernels as qk
from bench.turns import interleaved
from qlora.provenance import provenance
from qlora_kernels.files import write_text

HELP = "step time of DoRA over LoRA's, ours and peft's"
ENGINES = ("ours", "peft")
PACKAGES = ("qlora_kernels", "torch", "transformers", "peft")

Step = Callable[[], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15, help="each times every variant once")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers of SmolLM2's shape")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of one step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--output", type=Path, help="file for the record, as JSON")


def run(arguments: argparse.Namespace) -> int:
    torch.manual_seed(0)
    tokens = torch.randint(1024, (1, arguments.tokens))
    steps = {
        f"{engine} {method}": training_step(engine, method == "dora", arguments, tokens)
        for engine in ENGINES
        for method in ("lora", "dora")
    }
    seconds = interleaved(steps, arguments.rounds)
    how = {name: getattr(arguments, name) for name in ("rounds", "layers", "tokens", "rank")}
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    record: dict[str, object] = {**provenance(PACKAGES), **how, **medians}
    for engine in ENGINES:
        pairs = zip(seconds[f"{engine} dora"], seconds[f"{engine} lora"], strict=True)
        added = statistics.median(dora / lora - 1 for dora, lora in pairs)
        record[f"{engine} added"] = added
        print(f"{engine}: DoRA adds {added:+.1%} to a step of {medians[f'{engine} lora']:.3f} s")
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(record, indent=2) + "\n")
    return 0


def training_step(
    engine: str, dora: bool, arguments: argparse.Namespace, tokens: torch.Tensor
) -> Step:
    """Forward, backward and optimizer: QDoRA over NF4 with ours, DoRA over float32 with peft."""
    model = smollm2_shape(arguments.layers)
    if engine == "ours":
        config = qk.QLoRAConfig(rank=arguments.rank, dora=dora)
        model = qk.prepare_model(model, config)
    else:
        import peft

        targets = "all-linear"
        options = {"r": arguments.rank, "lora_alpha": 32, "use_dora": dora}
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, **options))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def smollm2_shape(num_layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M's layers with random weights; few, and a small vocabulary."""
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=num_layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=1024,
        )
    )
