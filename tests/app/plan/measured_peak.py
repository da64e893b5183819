"""Run as a program: the peak of two QLoRA steps in this process above its base, as one number."""

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import qlora_kernels as qk
from qlora.plan.settings import PlanSettings
from qlora.train.prepare import recompute_activations

TINY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "head_dim": 16,
}


def resident(word: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(word))


def return_memory() -> None:
    """Give what is free back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def train(sizes: dict[str, int], settings: PlanSettings) -> None:
    """Two steps; the peak counts from the model being ready."""
    config = AutoConfig.for_model("llama", **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    qk.prepare_model(model, qk.QLoRAConfig(rank=settings.rank))
    if settings.gradient_checkpointing:
        recompute_activations(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = qk.optim.AdamW(trained, lr=1e-4)
    return_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(2):
        ids = torch.arange(settings.tokens).view(settings.batch_size, -1) % config.vocab_size
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        labels = ids[:, 1:].flatten()
        hidden = hidden[:, :-1].flatten(0, 1)
        qk.ops.linear_cross_entropy(hidden, model.lm_head.weight, labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def main(sizes: dict[str, int], settings: dict[str, Any]) -> None:
    """Prints bytes."""
    torch.set_num_threads(1)
    checkpointing = settings["gradient_checkpointing"]
    small = PlanSettings(
        rank=4, sequence_length=16, batch_size=1, gradient_checkpointing=checkpointing
    )
    train(TINY, small)  # libraries and kernels are loaded, and belong to the base
    return_memory()
    base = resident("VmRSS:")
    train(sizes, PlanSettings(**settings))
    print(resident("VmHWM:") - base)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
