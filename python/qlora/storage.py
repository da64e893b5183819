"""How the frozen base is stored, as every command that loads one is told it."""

from typing import Any, Literal, Protocol

import qlora_kernels as qk

Format = Literal["nf4", "fp4", "int8", "nf4-tuned", "none"]


class Storage(Protocol):
    """The settings of a command that loads a base."""

    @property
    def format(self) -> str:
        """Of every linear layer but the head."""

    @property
    def format_pattern(self) -> dict[str, Format] | None:
        """Ends of names (regular expressions) -> their format instead."""

    @property
    def block_size(self) -> int:
        """Weights that share one scale."""

    @property
    def double_quant(self) -> bool:
        """Whether scales are quantized."""

    @property
    def scale_search(self) -> bool:
        """Whether scales are searched."""


def base_config(settings: Storage, **adapters: Any) -> qk.QLoRAConfig:
    """What `prepare_model` is told about the base, and `adapters`, its other fields."""
    pattern = settings.format_pattern
    return qk.QLoRAConfig(
        format={**pattern, "*": settings.format} if pattern else settings.format,
        block_size=settings.block_size,
        double_quant=settings.double_quant,
        scale_search=settings.scale_search,
        **adapters,
    )
