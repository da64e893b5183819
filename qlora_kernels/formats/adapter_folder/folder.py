"""What a peft folder says, as frozen values: no model, no files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from qlora_kernels.formats.adapter_folder.patterns import first_match


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """One layer's update `scaling B A`, with a magnitude DoRA's.

    a: [r, in], b: [out, r], any float dtype; magnitude: [out] or None. For an embedding (peft's
    lora_embedding_A and B) a is [r, vocabulary] and b [dim, r]: the update of its weight
    [vocabulary, dim] is `scaling (B A)^T`.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows [tokens, dim] that take the place of an embedding's rows `indices`."""

    indices: Sequence[int]
    rows: torch.Tensor


@dataclass(frozen=True)
class AdapterFolderConfig:
    """adapter_config.json: `scaling = alpha / r`, with rslora `alpha / sqrt(r)`.

    rank_pattern, alpha_pattern: {regular expression on the end of a layer's name: value}, the first
    that matches counts. base_model is a name that is told and never followed. target_modules:
    suffixes or one regular expression; told as well, since the tensors name the layers. bias is
    peft's word ("none", "all", "lora_only"). raw: the whole file, for whoever wants another field.
    """

    r: int = 8
    alpha: float = 8
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    base_model: str | None = None
    dropout: float = 0.0
    dropout_on: str = "input"
    target_modules: str | Sequence[str] | None = None
    modules_to_save: Sequence[str] = ()
    bias: str = "none"
    raw: Mapping[str, Any] = field(default_factory=dict)

    def rank_of(self, name: str) -> int:
        """The rank of the layer of that name."""
        return int(first_match(self.rank_pattern, name, self.r))

    def alpha_of(self, name: str) -> float:
        """The alpha of the layer of that name."""
        return float(first_match(self.alpha_pattern, name, self.alpha))

    def scaling(self, alpha: float, rank: int) -> float:
        """`alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA."""
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True, eq=False)
class AdapterFolder:
    """A peft folder by layer names as the model has them (without `base_model.model.`).

    layers: updates of linear layers; embeddings: updates of embeddings. biases: layer -> bias that
    replaces the base's. saved_modules: parameter -> tensor that replaces the base's, before any
    update (modules_to_save, and embeddings that peft saves whole). token_rows: embedding -> rows.
    """

    layers: Mapping[str, LayerFactors]
    config: AdapterFolderConfig
    embeddings: Mapping[str, LayerFactors] = field(default_factory=dict)
    biases: Mapping[str, torch.Tensor] = field(default_factory=dict)
    saved_modules: Mapping[str, torch.Tensor] = field(default_factory=dict)
    token_rows: Mapping[str, TokenRows] = field(default_factory=dict)
