"""The interface of a training method, and the names that `--method` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.nn import Parameter

METHODS = ("lora", "full", "prompt", "prefix", "bottleneck")


class Method(Protocol):
    """What the trainer asks of a method, once the model is prepared for it."""

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Name -> what is trained, float32; the same names in every run of the method."""

    def save(self, folder: Path) -> None:
        """Write what was trained into a new folder, whole or not at all."""

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote; InputError if it does not fit."""

    def partner(self, name: str) -> str | None:
        """The parameter that this one is multiplied with: while one is zero, the other has no
        gradient. None for a parameter that always has one.
        """

    def describe(self) -> str:
        """One line for people: what is trained, and where."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that virtual tokens and bottlenecks need."""

    hidden: int
    layers: int
    key_value_heads: int
    head_dim: int

    @staticmethod
    def of(config: object) -> "Shape":
        """From a transformers configuration."""
        hidden: int = config.hidden_size  # type: ignore[attr-defined]
        heads: int = config.num_attention_heads  # type: ignore[attr-defined]
        return Shape(
            hidden=hidden,
            layers=config.num_hidden_layers,  # type: ignore[attr-defined]
            key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
        )


def parameter_count(parameters: dict[str, Parameter]) -> int:
    """Values in all of them."""
    return sum(parameter.numel() for parameter in parameters.values())


def as_masters(parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """The same, wanting gradients and in float32: small steps would vanish in 16 bits."""
    for parameter in parameters.values():
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)
    return parameters
