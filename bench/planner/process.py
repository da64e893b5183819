"""Run as a program: the peak of training steps in this process above its base, as one number.

The base is the process after steps of a tiny model: libraries and kernels are loaded then. Freed
memory must go back to the system, which glibc does for what it maps apart: the caller sets
MALLOC_MMAP_THRESHOLD_. Without, a process keeps what its allocator wastes on top.
"""

import ctypes
import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import qlora_kernels as qk
from bench.planner.cases import Case
from qlora.demo.experiment import Experiment
from qlora.plan.settings import PlanSettings
from qlora.train.prepare import prepare, recompute_activations
from qlora.train.resume import find_place
from qlora.train.settings import TrainSettings
from qlora.train.step import take_step

STEPS = 3
FIXTURE = Path(__file__).parents[2] / "tests/fixtures/tiny_shakespeare_llama"
TINY = {
    "model_type": "llama",
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


def take_steps(step: Callable[[], object]) -> None:
    """The peak counts from here."""
    return_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(STEPS):
        step()


def train_shape(
    config: dict[str, Any], method: str, settings: PlanSettings, passes: int = 1
) -> None:
    """Plain steps of a random model of that shape."""
    made = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32).train()
    if method != "full":
        layers = qk.QLoRAConfig(
            rank=settings.rank,
            format="none" if method == "lora" else "nf4",
            dora=method == "dora",
        )
        qk.prepare_model(model, layers)
    if settings.gradient_checkpointing:
        recompute_activations(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = qk.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        for _ in range(passes):
            backward(model, settings)
        optimizer.step()
        optimizer.zero_grad()

    take_steps(step)


def backward(model: PreTrainedModel, settings: PlanSettings) -> None:
    """One pass."""
    ids = torch.arange(settings.tokens).view(settings.batch_size, -1) % model.config.vocab_size
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    labels = ids[:, 1:].flatten()
    hidden = hidden[:, :-1].flatten(0, 1)
    qk.ops.linear_cross_entropy(hidden, model.lm_head.weight, labels).backward()


def train_run(settings: TrainSettings) -> None:
    """The first steps of what `qlora train` would run."""
    run, state, _ = prepare(settings, find_place(settings))
    take_steps(lambda: take_step(run, state))


def warm_up(folder: Path) -> None:
    """Both kinds of step, tiny: what they load belongs to the base."""
    small = PlanSettings(rank=4, sequence_length=16, batch_size=1, gradient_checkpointing=True)
    for method in ("full", "lora", "dora"):
        train_shape(TINY, method, small)
    data = folder / "verses.jsonl"
    data.write_text('{"prompt": "to be", "completion": "or not to be"}\n' * 40)
    train_run(
        TrainSettings(
            model=FIXTURE, data=data, output=folder / "warm", sequence_length=32, steps=STEPS
        )
    )


def main(case: Case, model: Path | None) -> None:
    """Prints bytes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up(folder)
        return_memory()
        base = resident("VmRSS:")
        if model is None:
            train_shape(case.config, case.method, case.settings, case.passes)
        else:
            demo = Experiment(model, folder / "demo")
            demo.write_data()
            train_run(demo.settings)
        print(resident("VmHWM:") - base)


if __name__ == "__main__":
    main(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]) if sys.argv[2:] else None)
