"""Everything that `qlora train` can be told, with the defaults of its recipe and their reasons."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import qlora_kernels as qk
from qlora.recipe.rules import ALPHA_PER_RANK, NAMES, Case, Decided, decide
from qlora.settings import setting
from qlora.storage import Format, base_config
from qlora.train.budget import Budget
from qlora.train.replay import Replay
from qlora.train.schedule import Schedule
from qlora_kernels.errors import InputError

MOST_DROPOUT = 0.3  # more of a bottleneck than that lets too little through to learn


@dataclass(frozen=True)
class TrainSettings:
    """One run; every field is a flag and a key of `--config`.

    What `qlora.recipe.rules` decides by the data is None until it is set or `following` fills it.
    """

    model: Path = field(metadata={"help": "Hugging Face folder or .gguf file of a causal LM"})
    data: Path = field(
        metadata={
            "help": "training data: .txt, or .jsonl with text, prompt and completion, or messages"
        }
    )
    validation: Path | None = setting(
        None, "validation data, instead of a split of the training data"
    )
    validation_split: float = setting(
        0.05, "share of the examples held out for validation; 0 trains without"
    )
    output: Path | None = setting(
        None, "folder of the run; default runs/ and the name of the data file"
    )
    resume: str | None = setting(
        None, "go on from a checkpoint or run folder; auto: from the latest in --output, if any"
    )

    from_adapter: Path | None = setting(
        None, "adapter folder to start from, on its layers and at its rank; a run of its own"
    )
    replay: str | None = setting(
        None,
        "old data and the share of each epoch's examples that is drawn from them, so that what they"
        " taught is kept: old.jsonl:0.2",
    )

    method: Literal["lora", "full", "prompt", "prefix", "bottleneck"] = setting(
        "lora",
        "what is trained: adapters, with --format none everything (full), or what adapters are"
        " compared with: --rank virtual tokens (prompt, prefix), --rank units behind every block"
        " (bottleneck)",
    )
    format: Format = setting(
        "nf4", "storage of the frozen base; none leaves it as it is, for 16-bit LoRA"
    )
    format_pattern: dict[str, Format] | None = setting(
        None, "another storage for some layers, by the ends of their names: down_proj=int8"
    )
    block_size: int = setting(64, "weights that share one scale")
    double_quant: bool = setting(
        True, "quantize the scales too: 0.516 instead of 0.563 bytes per weight"
    )
    scale_search: bool = setting(
        False, "nf4, fp4: search each block's scale for the least error, once, at the start"
    )
    rank: int = setting(16, "rank of the adapters")
    alpha: float | None = setting(
        None, "adapters count alpha / rank; default twice the rank, 8 with --rslora"
    )
    rank_pattern: dict[str, int] | None = setting(
        None, "another rank for some layers, by the ends of their names: q_proj=32"
    )
    alpha_pattern: dict[str, float] | None = setting(None, "another alpha for some layers")
    rslora: bool = setting(False, "alpha / sqrt(rank) instead, which keeps high ranks learning")
    dora: bool = setting(False, "train each output's magnitude apart from its direction (DoRA)")
    targets: str | tuple[str, ...] = setting(
        "all-linear",
        "layers that get an adapter: all-linear, name endings, or one regular expression; an"
        " embedding or the head if it is named",
    )
    exclude: tuple[str, ...] = setting((), "name endings of layers that get none all the same")
    trainable_tokens: tuple[int | str, ...] = setting(
        (), "tokens, by number or text, whose rows of the embedding are trained as well"
    )
    modules_to_save: tuple[str, ...] = setting(
        (), "name endings of modules that are trained whole: norms, embedding, head"
    )
    untie: bool = setting(
        False, "give a tied head or embedding its own weight, so that it can be adapted"
    )
    bias: Literal["none", "lora_only", "all"] = setting(
        "none", "biases that are trained too: those of adapted layers, or all"
    )
    init: Literal["gaussian", "kaiming-uniform"] = setting(
        "gaussian", "how the first adapter factor starts; the second starts at 0"
    )
    dropout: float | None = setting(
        None, "dropout of the adapters, at most 0.3; default 0.15 to 0, by the number of examples"
    )
    dropout_on: Literal["rank", "input"] = setting(
        "rank", "drop the output of the first factor, or its input as peft does"
    )

    sequence_length: int = setting(512, "tokens in a row; longer examples are cut")
    packing: bool = setting(True, "fill rows with several examples, which do not see each other")
    batch_size: int = setting(4, "rows in one forward pass")
    accumulate: int = setting(
        1, "forward passes in one step; exact, since the loss is averaged over all their tokens"
    )
    epochs: float = setting(3.0, "passes over the data")
    steps: int | None = setting(None, "optimizer steps, instead of epochs")
    learning_rate: float | None = setting(
        None, "peak rate, of the first adapter factor; default 2e-4 / sqrt(lora_plus_ratio)"
    )
    lora_plus_ratio: float | None = setting(
        None,
        "rate of the second adapter factor over that of the first; default 16 (LoRA+), or 1 beside"
        " a learning rate that is given",
    )
    lr_schedule: Schedule = setting("cosine", "how the rate falls after warm-up")
    warmup: float = setting(0.03, "share of the steps in which the rate rises; QLoRA's")
    weight_decay: float | None = setting(
        None,
        "decay of the adapter factors; magnitudes have none; default 0.1 to 0.01, by the number of"
        " examples",
    )
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit"] = setting(
        "adamw",
        "8bit: states of a quarter of the size; paged: states leave memory for a file (a GPU for"
        " pinned memory) where they would take more than --optimizer-memory",
    )
    optimizer_memory: str | None = setting(
        None, "bytes that paged states may take: 512MiB, 2GB or 10% of them; default what there is"
    )
    max_norm: float = setting(1.0, "clip gradients to this norm; 0 does not clip")
    gradient_checkpointing: bool = setting(
        False, "recompute activations in backward: less memory, about a third slower"
    )
    seed: int = setting(
        0, "of adapters, dropout, split and order; the same seed gives the same bits"
    )

    preflight: bool = setting(
        True,
        "before the first step, without changing anything, prove that every adapter receives a"
        " gradient, that labels are left and that memory suffices; --no-preflight where one of"
        " them is not so on purpose, as with experts that hardly any row reaches",
    )
    evaluate_every: int | None = setting(
        None, "steps between validations; default 10 in a run and one an epoch at least"
    )
    patience: int = setting(
        3, "stop after this many validations without a gain; 0 never stops early"
    )
    save_every: int | None = setting(
        None, "steps between checkpoints; default as often as validation"
    )
    keep: int = setting(2, "checkpoints to keep, the latest ones")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read or written."""
        _ = self.layers  # checks its own part
        counts = ("sequence_length", "batch_size", "accumulate", "steps")
        for name in (*counts, "evaluate_every", "save_every", "keep"):
            value = getattr(self, name)
            _require(name, value is None or value >= 1, "at least 1", value)
        for name in ("learning_rate", "lora_plus_ratio", "epochs"):
            value = getattr(self, name)
            _require(name, value is None or 0 < value < float("inf"), "above 0", value)
        for name in ("weight_decay", "max_norm", "patience"):
            value = getattr(self, name)
            _require(name, value is None or 0 <= value < float("inf"), "0 or more", value)
        most = f"at most {MOST_DROPOUT}"
        _require("dropout", (self.dropout or 0) <= MOST_DROPOUT, most, self.dropout)
        for name in ("validation_split", "warmup"):
            value = getattr(self, name)
            _require(name, 0 <= value < 1, "in [0, 1)", value)
        if self.from_adapter is not None:
            _require("method", self.method == "lora", "lora with from_adapter", self.method)
        if self.replay is not None:
            Replay.read(self.replay)
        if self.optimizer_memory is not None:
            Budget.read("train: optimizer_memory", self.optimizer_memory)
            paged = self.optimizer.startswith("paged")
            _require("optimizer_memory", paged, "for a paged optimizer", f"for {self.optimizer}")
        _require("seed", 0 <= self.seed < 2**63, "in [0, 2^63)", self.seed)
        _require("sequence_length", self.sequence_length >= 2, "at least 2", self.sequence_length)

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.output or Path("runs") / self.data.stem

    def following(self, num_examples: int) -> "TrainSettings":
        """With what nobody set as the recipe has it for so many examples; all numbers are known."""
        return replace(self, **asdict(decide(self.case(num_examples))))

    def case(self, num_examples: int) -> Case:
        """What the recipe asks about."""
        given = {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}
        return Case(num_examples, self.method, self.rank, self.rslora, given)

    @property
    def decided(self) -> Decided:
        """The numbers that the recipe decides where nobody does; of `following` only."""
        values = {name: getattr(self, name) for name in NAMES}
        if undecided := [name for name, value in values.items() if value is None]:
            raise ValueError(f"settings: {undecided} should be decided, by `following`")
        return Decided(**values)

    @property
    def layers(self) -> qk.QLoRAConfig:
        """What `prepare_model` is told; a tokenizer must say which `trainable_tokens` are meant."""
        if self.method != "lora":
            return base_config(self, targets=())
        return base_config(
            self,
            rank=self.rank,
            alpha=ALPHA_PER_RANK * self.rank if self.alpha is None else self.alpha,
            rank_pattern=self.rank_pattern or {},
            alpha_pattern=self.alpha_pattern or {},
            targets=self.targets,
            dropout=self.dropout or 0.0,  # undecided while the other settings are checked
            dropout_on=self.dropout_on,
            rslora=self.rslora,
            dora=self.dora,
            exclude=self.exclude,
            modules_to_save=self.modules_to_save,
            untie=self.untie,
            bias=self.bias,
            init=self.init,
        )


def _require(name: str, fits: bool, should: str, was: object) -> None:
    if not fits:
        raise InputError(f"train: {name} should be {should}, was {was}")
