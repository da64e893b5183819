"""What a GPU should reach, by name: reported beside what it reached, never asserted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """At least so much in one field of an op's records, in the least of them or over a block.

    m, direction, format and backend say which records are meant; None means all. is_most: the
    figure is at most so much, in the largest of them.
    """

    name: str
    op: str
    field: str  # of a record: ratio or share_of_roof
    least: float
    against: str | None = None  # the peer of a ratio
    format: str | None = None
    m: tuple[int, ...] | None = None
    direction: str | None = None
    of_block: bool = False  # a model's layers together: their times are added
    backend: str | None = None  # that alone
    is_most: bool = False

    def told(self, records: Sequence[Record]) -> str:
        """One line; each backend's figure, the best of which decides."""
        wanted = f"{self.name}: should be at {'most' if self.is_most else 'least'} {self.least:g}"
        by_backend: dict[str, list[Record]] = {}
        for record in records:
            if self._is_meant(record):
                by_backend.setdefault(record["backend"], []).append(record)
        if not by_backend:
            return f"{wanted}, was not timed"
        found = {backend: self._figure(meant) for backend, meant in by_backend.items()}
        figures = ", ".join(f"{figure:.2f} ({backend})" for backend, figure in found.items())
        best = min(found.values()) if self.is_most else max(found.values())
        is_reached = best <= self.least if self.is_most else best >= self.least
        return f"{wanted}, was {figures}{'' if is_reached else ': missed'}"

    def _is_meant(self, record: Record) -> bool:
        case = record["case"]
        return (
            record["op"] == self.op
            and self.backend in (None, record["backend"])
            and self.against in (None, record["against"])
            and self.format in (None, case.get("format"))
            and (self.m is None or case.get("m") in self.m)
            and self.direction in (None, case.get("direction"))
            and record[self.field] is not None
        )

    def _figure(self, records: Sequence[Record]) -> float:
        if not self.of_block:
            worst = max if self.is_most else min
            return float(worst(record[self.field] for record in records))
        ours, theirs = (
            sum(layers(record) * time(record) for record in records)
            for time in (lambda r: r["median_ms"], lambda r: r["against_ms"]["median_ms"])
        )
        return float(theirs / ours)


def layers(record: Record) -> int:
    """How many layers of a block have this shape: those that its label names, `llama-8b q/o`."""
    return len(record["case"]["shape"].split()[-1].split("/"))


FEW, FEW_TILES, MANY = (1, 16), (64,), (4096,)
FORWARD, TRAINING = "forward", "forward+backward"
COPY = "share of copy bandwidth"


def _linear(words: str, m: tuple[int, ...], least: float, against: str, **rest: Any) -> Goal:
    direction = rest.pop("direction", FORWARD)
    name = f"qlora_linear, {words}"
    return Goal(name, "qlora_linear", "ratio", least, against, m=m, direction=direction, **rest)


GOALS = (
    _linear("m <= 16, times bf16 cuBLAS", FEW, 2.5, "torch"),
    _linear("m <= 16, times bitsandbytes + peft", FEW, 1.2, "peft"),
    _linear("m = 64, times bf16 cuBLAS", FEW_TILES, 2.0, "torch"),
    _linear("m = 64, times bitsandbytes + peft", FEW_TILES, 1.5, "peft"),
    _linear("m = 4096, a block, times bf16 cuBLAS", MANY, 0.87, "torch", of_block=True),
    _linear("m = 4096, a block, times bitsandbytes + peft", MANY, 1.3, "peft", of_block=True),
    _linear(
        "m = 4096, a block with gradients, times bitsandbytes + peft",
        MANY, 1.3, "peft", of_block=True, direction=TRAINING,
    ),
    _linear("LoRA's cost, frozen over adapted", MANY, 1 / 1.05, "frozen", of_block=True),
    Goal("DoRA's cost, LoRA over DoRA", "dora_linear", "ratio", 1 / 1.05, "lora", of_block=True),
    _linear("on CUDA, m <= 16, times bf16 cuBLAS", FEW, 3.0, "torch", backend="cuda"),
    _linear("on CUDA, m <= 16, times bitsandbytes + peft", FEW, 1.3, "peft", backend="cuda"),
    # That it waits for nothing is a test, not a time (tests/gpu/test_adamw.py).
    Goal(
        "adamw8bit on CUDA, ms a step of 42 M parameters in 448 tensors",
        "adamw8bit", "median_ms", 0.4, format="8bit", backend="cuda", is_most=True,
    ),
    Goal(f"dequantize, {COPY}", "dequantize", "share_of_roof", 0.85),
    Goal(f"dequantize by cuda, {COPY}", "dequantize", "share_of_roof", 0.9, backend="cuda"),
    Goal(f"quantize, {COPY}", "quantize", "share_of_roof", 0.75),
    Goal(f"quantize by cuda, {COPY}", "quantize", "share_of_roof", 0.75, backend="cuda"),
    Goal(f"adamw8bit, {COPY}", "adamw8bit", "share_of_roof", 0.6, format="8bit"),
    Goal("adamw8bit, times bitsandbytes", "adamw8bit", "ratio", 5.0, "bitsandbytes", "8bit"),
    Goal(
        "adamw8bit, paged by pinned memory", "adamw8bit", "ratio", 1.0, "bitsandbytes", "paged8bit"
    ),
)  # fmt: skip


def goals_told(whole: Path) -> Iterator[str]:
    """One line per goal, from the records of a run."""
    lines = whole.read_text(encoding="utf-8").splitlines() if whole.exists() else []
    records = [json.loads(line) for line in lines if line]
    for goal in GOALS:
        yield goal.told(records)
