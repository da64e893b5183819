"""The runs, the most telling first: configurations of `qlora train`, each with every seed.

All train on the same rows for the same steps at the demo's rate, with adapters of rank 16 and alpha
32 on every linear layer over NF4, but for what a configuration says. Full fine-tuning and the
foreign methods have the rate of their kind. Nothing here was chosen by looking at test rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qlora.train.settings import TrainSettings

Kind = Literal["trained", "base", "few-shot"]
SEEDS = (0, 1, 2)
SMALL = 64  # rows of the small set, seen many times
SHOTS = 16

# By task: tokens in a row, rows in a step, steps, training rows (each seen about once).
SIZES: dict[str, dict[str, int]] = {
    "intents": {"sequence_length": 64, "batch_size": 4, "steps": 60, "num_train": 1080},
    "python": {"sequence_length": 128, "batch_size": 2, "steps": 60, "num_train": 300},
}
COMMON: Mapping[str, Any] = {
    "validation_split": 0,
    "rank": 16,
    "alpha": 32.0,
    "dropout": 0.0,
    "learning_rate": 1e-3,
    "lora_plus_ratio": 1.0,
    "weight_decay": 0.0,
    "warmup": 0.1,
    "patience": 0,
    "preflight": False,  # it has shown that these train; its step costs as much as one
}


@dataclass(frozen=True)
class Configuration:
    """A cell of the tables. settings: over COMMON. num_train: rows, instead of the task's."""

    name: str
    title: str
    task: str = "intents"
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "trained"
    num_train: int | None = None

    @property
    def format(self) -> str:
        return str(self.settings.get("format", "nf4"))

    @property
    def rows(self) -> int:
        """Training rows."""
        return self.num_train or SIZES[self.task]["num_train"]

    def train_settings(self, model: Path, data: Path, output: Path, seed: int) -> TrainSettings:
        """Of the run with that seed."""
        sizes = {n: v for n, v in SIZES[self.task].items() if n != "num_train"}
        told = {**COMMON, **sizes, **self.settings}
        return TrainSettings(model=model, data=data, output=output, seed=seed, **told)


@dataclass(frozen=True)
class Run:
    """One process."""

    configuration: Configuration
    seed: int

    @property
    def name(self) -> str:
        return f"{self.configuration.name}-seed-{self.seed}"


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def _ranked(rank: int, **settings: Any) -> dict[str, Any]:
    """alpha / rank stays 2."""
    return {"rank": rank, "alpha": 2.0 * rank, **settings}


def _small(name: str, title: str, **settings: Any) -> Configuration:
    return Configuration(name, title, settings=_ranked(32, **settings), num_train=SMALL)


FORMATS = {"none": "16 bits", "int8": "int8", "nf4-tuned": "nf4-tuned", "nf4": "NF4", "fp4": "FP4"}
CORE = (
    Configuration("qlora", "QLoRA: NF4, rank 16, all linear layers"),
    Configuration("lora", "LoRA over 16 bits", settings={"format": "none"}),
    Configuration(
        "full",
        "full fine-tuning",
        settings={"method": "full", "format": "none", "learning_rate": 1e-4},
    ),
    Configuration("attention-r4", "rank 4, attention only", settings=_ranked(4, targets=ATTENTION)),
)
BASES = tuple(
    Configuration(f"base-{name}", f"base in {title}", "both", {"format": name}, "base")
    for name, title in FORMATS.items()
)
METHODS = (
    Configuration("dora", "DoRA", settings={"dora": True}),
    Configuration(
        "lora-plus",
        "LoRA+, ratio 16",
        settings={"lora_plus_ratio": 16.0, "learning_rate": 1e-3 / 4},
    ),
    *(Configuration(f"r{r}", f"rank {r}", settings=_ranked(r)) for r in (1, 4, 64)),
)
PYTHON = tuple(
    Configuration(f"python-{name}", title, "python", settings)
    for name, title, settings in (
        ("qlora", "QLoRA: NF4, rank 16, all linear layers", {}),
        ("lora", "LoRA over 16 bits", {"format": "none"}),
        ("fp4", "LoRA over FP4", {"format": "fp4"}),
        ("nf4-tuned", "LoRA over nf4-tuned", {"format": "nf4-tuned"}),
        ("int8", "LoRA over int8", {"format": "int8"}),
        ("dora", "DoRA", {"dora": True}),
    )
)
# SmolLM2's q and v take 1,920 parameters per rank, its feed-forward 6,336, all seven 10,176.
PLACES = (
    Configuration("qv-r85", "q and v, rank 85", settings=_ranked(85, targets=("q_proj", "v_proj"))),
    Configuration("ffn-r26", "feed-forward, rank 26", settings=_ranked(26, targets=FEED_FORWARD)),
)
REGULARISED = (
    _small("small-r32", "64 rows, rank 32, without regularisation"),
    _small("small-r32-dropout", "the same with dropout 0.1", dropout=0.1),
    _small(
        "small-r32-both",
        "the same with dropout 0.1 and weight decay 0.1",
        dropout=0.1,
        weight_decay=0.1,
    ),
)
FOREIGN = (
    Configuration("few-shot", f"{SHOTS} examples in the prompt", kind="few-shot"),
    *(
        Configuration(
            name,
            title,
            settings={"method": name, "format": "none", "rank": 16, "learning_rate": rate},
        )
        for name, title, rate in (
            ("prompt", "prompt tuning, 16 virtual tokens", 1e-2),
            ("prefix", "prefix tuning, 16 virtual tokens", 1e-2),
            ("bottleneck", "bottleneck adapters, width 16", 1e-3),
        )
    ),
)
FORMATS_TUNED = tuple(
    Configuration(f"tuned-{name}", f"LoRA over {FORMATS[name]}", settings={"format": name})
    for name in ("fp4", "int8", "nf4-tuned")
)
# A comparison at one rate would be one of rates.
RATES = (
    Configuration("lora-3e-3", "QLoRA at three times the rate", settings={"learning_rate": 3e-3}),
    Configuration(
        "lora-plus-3e-3",
        "LoRA+ at three times the rate",
        settings={"lora_plus_ratio": 16.0, "learning_rate": 3e-3 / 4},
    ),
    Configuration(
        "full-3e-4",
        "full fine-tuning at three times the rate",
        settings={"method": "full", "format": "none", "learning_rate": 3e-4},
    ),
)
TIERS = (CORE, BASES, METHODS, FOREIGN, PYTHON, PLACES, REGULARISED, FORMATS_TUNED, RATES)
CONFIGURATIONS = {one.name: one for tier in TIERS for one in tier}


def runs(seeds: Sequence[int] = SEEDS) -> Iterator[Run]:
    """Tier by tier; within one a whole seed after the other."""
    for tier in TIERS:
        for seed in seeds:
            for configuration in tier:
                yield Run(configuration, seed)
