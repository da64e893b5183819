"""What a plan can be told: as much of a run as its memory depends on."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field)

from dataclasses import dataclass
from typing import Literal

from qlora.settings import setting
from qlora.storage import Format
from qlora.train.budget import Budget
from qlora_kernels.errors import InputError
from qlora_kernels.formats import QuantSpec

Method = Literal["full", "lora", "qlora", "dora", "lora+"]
METHODS: tuple[Method, ...] = ("full", "lora", "qlora", "dora", "lora+")


@dataclass(frozen=True)
class PlanSettings:
    """One plan; every field is a flag and a key of `--config`, most by `qlora train`'s names."""

    model: str | None = setting(
        None, "a name (llama-7b), or a folder or file of config.json", positional=True
    )
    memory: str | None = setting(None, "what there is, as 24GB or 16GiB: what fits, and how much")
    reserve: str | None = setting(
        None, "of --memory, what is not ours to take, as a GPU's context: 1GB"
    )
    method: tuple[Method, ...] = setting(
        (),
        "lora has a 16-bit base, qlora and dora one in --format, lora+ is lora with two rates;"
        " default all of them",
    )
    format: Format = setting("nf4", "storage of the base of qlora and dora")
    block_size: int = setting(64, "weights that share one scale")
    double_quant: bool = setting(True, "quantize the scales too")
    dtype: Literal["bfloat16", "float16", "float32"] = setting(
        "bfloat16", "of activations, and of weights that are neither quantized nor trained"
    )
    trained_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "of what is trained and its gradients; qlora train has float32"
    )
    device: Literal["gpu", "cpu"] = setting(
        "gpu", "a CPU's kernels hold neither a decoded layer nor a chunk of a frozen head's logits"
    )
    rank: int = setting(16, "rank of the adapters")
    targets: str | tuple[str, ...] = setting(
        "all-linear", "layers that get an adapter: all-linear, name endings, or one expression"
    )
    sequence_length: int = setting(512, "tokens in a row")
    batch_size: int = setting(4, "rows in one forward pass")
    packing: bool = setting(
        True, "rows of several examples, whose attention has a mask and copies of keys and values"
    )
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit"] = setting(
        "adamw", "8bit: states of a quarter of the size; paged: they leave memory when it is short"
    )
    optimizer_memory: str | None = setting(
        None, "bytes that paged states may take: 512MiB, 2GB or 10%"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in backward")

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("rank", "sequence_length", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"plan: {name} should be at least 1, was {getattr(self, name)}")
        if self.format != "none":
            self.spec.check("plan")
        for name in ("memory", "reserve", "optimizer_memory"):
            text = getattr(self, name)
            if text is None:
                continue
            budget = Budget.read(f"plan: {name}", text)
            if budget.unit == "%" and name != "optimizer_memory":
                raise InputError(f"plan: {name} should be in bytes, was {text}")
        if self.reserve and not self.memory:
            raise InputError("plan: reserve should come with --memory, came without")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise InputError(f"plan: reserve should be less than {self.memory}, was {self.reserve}")
        if self.optimizer_memory and not self.paged:
            raise InputError(
                f"plan: optimizer_memory should be for a paged optimizer, was for {self.optimizer}"
            )

    @property
    def spec(self) -> QuantSpec:
        """How weights are stored, where `format` is not none."""
        return QuantSpec(self.format, self.block_size, self.double_quant)

    @property
    def paged(self) -> bool:
        """Whether states may leave memory."""
        return self.optimizer.startswith("paged")

    @property
    def tokens(self) -> int:
        """In one forward pass."""
        return self.sequence_length * self.batch_size

    @property
    def memory_bytes(self) -> int | None:
        """What may be taken, less the reserve."""
        if self.memory is None:
            return None
        reserve = Budget.read("plan: reserve", self.reserve).bytes_of(0) if self.reserve else 0
        return Budget.read("plan: memory", self.memory).bytes_of(0) - reserve
