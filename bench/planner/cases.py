"""What is measured: the demo's run, and Llama shapes by method, with and without checkpointing.

The first two shapes are those on which the planner's sum was found; the last two came afterwards,
but for the terms of a trained head, which full fine-tuning of them showed to be missing.
"""

from dataclasses import dataclass
from typing import Any

from qlora.plan.settings import Method, PlanSettings

HEAD = 64
SHAPES: dict[str, dict[str, int]] = {
    "equal-heads": {"vocab_size": 4096, "hidden_size": 512, "num_hidden_layers": 8}
    | {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1408}
    | {"head_dim": HEAD},
    "few-keys": {"vocab_size": 8192, "hidden_size": 768, "num_hidden_layers": 6}
    | {"num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 2048}
    | {"head_dim": HEAD},
    "deep": {"vocab_size": 16000, "hidden_size": 384, "num_hidden_layers": 14}
    | {"num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 1024}
    | {"head_dim": HEAD},
    "wide": {"vocab_size": 32000, "hidden_size": 1280, "num_hidden_layers": 3}
    | {"num_attention_heads": 10, "num_key_value_heads": 10, "intermediate_size": 3584}
    | {"head_dim": 2 * HEAD},
}
UNSEEN = ("deep", "wide")
TOKENS = {"equal-heads": (2, 512), "few-keys": (4, 512), "deep": (3, 300), "wide": (2, 384)}


@dataclass(frozen=True)
class Case:
    """One process: a shape by its name, or `demo`."""

    shape: str
    method: Method
    checkpointing: bool = False
    passes: int = 1  # in one step, as --accumulate has them

    @property
    def name(self) -> str:
        """For tables."""
        extra = " checkpointed" * self.checkpointing + f" {self.passes} passes" * (self.passes > 1)
        return f"{self.shape} {self.method}{extra}"

    @property
    def config(self) -> dict[str, Any]:
        """What config.json would say."""
        return {**SHAPES[self.shape], "model_type": "llama", "tie_word_embeddings": False}

    @property
    def settings(self) -> PlanSettings:
        """Of the plan; the model is float32, as on a CPU without bfloat16."""
        rows, length = TOKENS[self.shape]
        return PlanSettings(
            device="cpu",
            dtype="float32",
            sequence_length=length,
            batch_size=rows,
            packing=False,
            gradient_checkpointing=self.checkpointing,
        )


def all_cases() -> list[Case]:
    """The demo first."""
    cases = [Case("demo", "qlora")]
    for shape in SHAPES:
        cases += [Case(shape, "qlora", checkpointing) for checkpointing in (False, True)]
    for shape in UNSEEN:
        cases += [Case(shape, "lora"), Case(shape, "dora")]
        # In one pass gradients fill what activations leave, and the sum is only a bound.
        cases += [Case(shape, "full", passes=2)]
    return cases
