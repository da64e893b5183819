"""What 65B weights take by each method, beside the figures that are quoted for them.

780 and 48 GB are the QLoRA paper's; the others are quoted without their assumptions. `source` is
the method's paper.

Every row: LLaMA-65B, one row of 512 tokens (QLoRA's appendix G), rank 64 on all linear layers,
32-bit AdamW states, GB = 10^9 bytes. `assumes` is what else the row needs to come near its figure,
and what is not so in `qlora train`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from qlora.plan.memory import Forecast
from qlora.plan.models import MODELS
from qlora.plan.settings import Method, PlanSettings

GIGABYTE = 10**9
NEAR = 0.05  # share of the quoted figure
COMMON = PlanSettings(rank=64, sequence_length=512, batch_size=1, packing=False)


@dataclass(frozen=True)
class Row:
    """A method, what is quoted for it, what the planner says, and where the two differ."""

    method: str
    year: int
    source: str
    quoted_gb: float
    predicted_gb: float
    assumes: str

    @property
    def off(self) -> float:
        """Share of the quoted figure by which the predicted one is above it."""
        return self.predicted_gb / self.quoted_gb - 1

    @property
    def near(self) -> bool:
        """Whether the two agree."""
        return abs(self.off) <= NEAR

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "off": self.off, "near": self.near}


def table() -> list[Row]:
    """In the order of the years."""
    as_trained = _gigabytes("full", {})
    dense_norm = _largest_layer() * 12 / GIGABYTE
    dora = _gigabytes("dora", {"gradient_checkpointing": True})
    return [
        Row(
            "full",
            2017,
            "AdamW, arXiv 1711.05101",
            780,
            _gigabytes("full", {"trained_dtype": "bfloat16"}),
            "weights and gradients in 16 bits, 12 bytes per weight, no checkpointing; with"
            f" `qlora train`'s float32 ones it is {as_trained:.0f} GB",
        ),
        Row(
            "lora",
            2021,
            "LoRA, arXiv 2106.09685",
            160,
            _gigabytes("lora", {}),
            "16-bit base, float32 adapters, no checkpointing",
        ),
        Row(
            "qlora",
            2023,
            "QLoRA, arXiv 2305.14314",
            48,
            _gigabytes("qlora", {"gradient_checkpointing": True}),
            "nf4, double quantization, float32 adapters, checkpointing",
        ),
        Row(
            "dora",
            2024,
            "DoRA, arXiv 2402.09353, over nf4",
            52,
            dora,
            "as qlora. Differs: the norm here needs no dense W + s B A; with W, s B A and their sum"
            f" of the largest layer in float32, {dense_norm:.1f} GB, it is"
            f" {dora + dense_norm:.1f} GB, {(dora + dense_norm) / 52 - 1:+.1%}",
        ),
        Row(
            "lora+",
            2024,
            "LoRA+, arXiv 2402.12354",
            160,
            _gigabytes("lora+", {}),
            "as lora: two learning rates take no memory",
        ),
    ]


def _gigabytes(method: Method, changes: Mapping[str, Any]) -> float:
    settings = replace(COMMON, **changes)
    return Forecast(MODELS["llama-65b"], settings, method).total / GIGABYTE


def _largest_layer() -> int:
    return max(layer.weights for layer in MODELS["llama-65b"].block)
