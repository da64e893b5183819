"""What is trained on: a real model or a stack of a known model's layers, and rows of verse."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from qlora.models import compute_dtype, load_tokenizer
from qlora.plan.models import MODELS
from qlora_kernels.errors import InputError

FIXTURES = Path("tests/fixtures")
TINY = FIXTURES / "tiny_shakespeare_llama"
TEXT = FIXTURES / "sonnets.txt"
SMOLLM2 = "smollm2"  # the real one, not a stack of its shape
STACK_VOCABULARY = 1024  # of the tiny fixture's tokenizer, which reads the verse for a stack
# All of these are built as Llama builds them; gpt2 has other blocks.
STACKS = {name: shape for name, shape in MODELS.items() if not shape.traits.gpt2}

Attention = Literal["eager", "sdpa"]
TRAINERS_ATTENTION: Attention = "sdpa"  # of `qlora train`, which loads as transformers does


@dataclass(frozen=True)
class Problem:
    """One training problem, the same for all methods.

    model: folder of a model, or a name of STACKS for so many layers of its shape with random
    weights. attention: of all methods but in the lines of own defaults.
    """

    model: str
    layers: int = 1
    rows: int = 4
    tokens: int = 128
    rank: int = 16
    learning_rate: float = 1e-3
    full_learning_rate: float = 1e-4  # every weight moves, so each by less
    checkpointing: bool = False
    attention: Attention = TRAINERS_ATTENTION
    seed: int = 0

    @property
    def is_folder(self) -> bool:
        return Path(self.model).is_dir()

    @property
    def title(self) -> str:
        """For tables and pictures."""
        shape = f"{self.rows} x {self.tokens} tokens, rank {self.rank}"
        if self.is_folder:
            return f"{Path(self.model).name}, {shape}"
        plural = "" if self.layers == 1 else "s"
        return f"{self.layers} layer{plural} of {self.model}, random weights, {shape}"


def device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(problem: Problem) -> PreTrainedModel:
    """The dense model in the dtype that the machine multiplies: bf16 or float32."""
    dtype = compute_dtype()
    if problem.is_folder:
        model = AutoModelForCausalLM.from_pretrained(
            problem.model,
            local_files_only=True,
            dtype=dtype,
            attn_implementation=problem.attention,
        )
    else:
        torch.manual_seed(problem.seed)
        config = stack_config(problem)
        model = LlamaForCausalLM._from_config(
            config, dtype=dtype, attn_implementation=problem.attention
        )
    return model.to(device()).train()


def stack_config(problem: Problem) -> LlamaConfig:
    """A few layers of a large model, behind a small vocabulary: the head is not what is asked."""
    shape = STACKS[problem.model]
    return LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=problem.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_size,
        vocab_size=STACK_VOCABULARY,
    )


def batches(problem: Problem) -> Iterator[torch.Tensor]:
    """[rows, tokens] of verse from places that the seed draws, without end; no padding."""
    tokenizer = load_tokenizer(problem.model if problem.is_folder else TINY)
    text = TEXT.read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    if len(ids) < problem.tokens:
        raise InputError(f"train-step: --tokens should be at most {len(ids)}, was {problem.tokens}")
    random = torch.Generator().manual_seed(problem.seed)
    while True:
        starts = torch.randint(len(ids) - problem.tokens + 1, (problem.rows,), generator=random)
        rows = [ids[start : start + problem.tokens] for start in starts.tolist()]
        yield torch.stack(rows).to(device())
