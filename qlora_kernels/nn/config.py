"""What `prepare_model` is asked for, as one frozen value that is checked when it is made."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qlora_kernels.checks import InputError, check_choice, check_probability
from qlora_kernels.formats import QuantSpec
from qlora_kernels.formats.adapter import DROPOUT_ON
from qlora_kernels.formats.codebooks import FORMATS

INITS = ("gaussian", "kaiming-uniform")
BIASES = ("none", "lora_only", "all")


@dataclass(frozen=True)
class QLoRAConfig:
    """Base format and adapters: `y = dequantize(q) x + (alpha / rank) B A x`.

    rank, alpha: size and strength of the update; rslora: scale by alpha / sqrt(rank) instead
    (arXiv 2312.03732); dora: train the magnitude of each output feature apart from its direction
    (arXiv 2402.09353). targets: which linear layers and embeddings get adapters: a list of name
    suffixes, one string as a full-match regular expression, or "all-linear" (all but head and
    embeddings); exclude: name suffixes to leave out. rank_pattern, alpha_pattern: {regular
    expression on the end of the name: value}; each must match a layer.

    format: "nf4", "fp4", "int8", "nf4-tuned", or "none" for an unquantized base; or per layer, as
    rank_pattern says it, with "*" for all others (without it: nf4): {"down_proj": "int8", "*":
    "nf4"}. block_size, double_quant, scale_search: see `quantize`; in a mixture only 4-bit layers
    are searched. Every linear layer but the head is quantized, whatever `targets` says;
    quantize_head: the head too. untie: give a tied head or embedding its own weight, which adapters
    and quantization of it need.

    dropout, dropout_on: see `Adapter`. init: A is "gaussian" (std 1 / rank) or "kaiming-uniform"
    (peft's default); B is zero, so training starts from the base.

    bias: which biases are trained as well: "none", those of adapted layers ("lora_only"), or every
    bias of the model ("all"); they are part of the adapter and take the place of the base's.

    modules_to_save: ends of names of modules to train whole, as copies that are never quantized and
    get no adapter: a norm, an embedding, the head (one that is tied needs `untie`).

    trainable_tokens: tokens whose rows of the embedding are trained while the rest of it stays
    frozen, a list, or {end of a module's name: list} for other embeddings or a head; a head that is
    tied to the embedding follows. With them go new tokens, without an adapter as large as the
    vocabulary.

    share_inputs: q, k and v of an attention, gate and up of a feed-forward, which read the same
    tensor, run as one op call.

    Raises InputError for any value that makes no sense.
    """

    rank: int = 16
    alpha: float = 32
    targets: str | Sequence[str] = "all-linear"
    format: str | Mapping[str, str] = "nf4"
    block_size: int = 64
    double_quant: bool = True
    dropout: float = 0.0
    dropout_on: str = "rank"
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    init: str = "gaussian"
    bias: str = "none"
    modules_to_save: Sequence[str] = ()
    trainable_tokens: Sequence[int] | Mapping[str, Sequence[int]] = ()
    quantize_head: bool = False
    untie: bool = False
    share_inputs: bool = True
    scale_search: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        who = "QLoRAConfig"
        for name, rank in {"rank": self.rank, **self.rank_pattern}.items():
            if not isinstance(rank, int) or isinstance(rank, bool) or rank <= 0:
                raise InputError(f"{who}: {name} should be a whole number above 0, was {rank!r}")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not (isinstance(alpha, int | float) and math.isfinite(alpha) and alpha > 0):
                raise InputError(f"{who}: {name} should be a finite number above 0, was {alpha!r}")
        for chosen in self.formats:
            if chosen != "none":
                self._spec(chosen).check(who)
        if self.scale_search and self.format == "none":
            raise InputError(f"{who}: scale_search should be False for format none, was True")
        check_probability(who, "dropout", self.dropout)
        check_choice(who, "dropout_on", self.dropout_on, DROPOUT_ON)
        check_choice(who, "init", self.init, INITS)
        check_choice(who, "bias", self.bias, BIASES)
        if isinstance(self.modules_to_save, str) or "" in self.modules_to_save:
            was = repr(self.modules_to_save)
            raise InputError(f"{who}: modules_to_save should be a list of names, was {was}")
        self._check_tokens()
        patterns = [*self.rank_pattern, *self.alpha_pattern, *self.format_pattern]
        if isinstance(self.targets, str):
            patterns.append(self.targets)
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"{who}: a pattern should be a regular expression, was {pattern!r} ({error})"
                ) from None

    def _check_tokens(self) -> None:
        told = self.trainable_tokens
        lists = list(told.values()) if isinstance(told, Mapping) else [told]
        for tokens in lists:
            whole = isinstance(tokens, Sequence) and all(type(token) is int for token in tokens)
            if not whole or (isinstance(told, Mapping) and not tokens):
                raise InputError(
                    "QLoRAConfig: trainable_tokens should be a list of token ids or {name: list}, "
                    f"was {told!r}"
                )

    @property
    def format_pattern(self) -> dict[str, str]:
        """The patterns of `format` but "*"; none where one format is for all."""
        if isinstance(self.format, str):
            return {}
        return {pattern: chosen for pattern, chosen in self.format.items() if pattern != "*"}

    @property
    def formats(self) -> tuple[str, ...]:
        """Every format that a layer may get, that of most layers first."""
        if isinstance(self.format, str):
            return (self.format,)
        return (self.format.get("*", "nf4"), *self.format_pattern.values())

    def spec_of(self, name: str) -> QuantSpec | None:
        """How the base of the layer of that name is quantized; None: not at all."""
        chosen = _lookup(self.format_pattern, name, self.formats[0])
        return None if chosen == "none" else self._spec(chosen)

    def _spec(self, chosen: str) -> QuantSpec:
        mixed = not isinstance(self.format, str)
        is_int8 = chosen in FORMATS and FORMATS[chosen].codebook is None
        searched = self.scale_search and not (mixed and is_int8)
        return QuantSpec(chosen, self.block_size, self.double_quant, searched)

    def rank_of(self, name: str) -> int:
        """The rank of the layer of that name."""
        return int(_lookup(self.rank_pattern, name, self.rank))

    def alpha_of(self, name: str) -> float:
        """The alpha of the layer of that name."""
        return float(_lookup(self.alpha_pattern, name, self.alpha))


def _lookup(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the name, from a dot on."""
    for pattern, value in patterns.items():
        if ends_with(pattern, name):
            return value
    return default


def ends_with(pattern: str, name: str) -> bool:
    """Whether the regular expression matches the end of the name, from a dot on."""
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
