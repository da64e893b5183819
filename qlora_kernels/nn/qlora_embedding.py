"""The embedding with a low-rank adapter, or with rows of its own for some tokens."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qlora_kernels.checks import InputError, check_shapes
from qlora_kernels.formats import Adapter
from qlora_kernels.nn.casting import Cast, casting_only
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.token_rows import TokenRows, rows_for


class QLoRAEmbedding(nn.Embedding):
    """`y = W[x] + s A^T[x] B^T` with W frozen, or `rows[place of x]` for the tokens with rows.

    `lora_a` [rank, vocabulary] and `lora_b` [dim, rank] are float32 parameters or None, as peft's
    lora_embedding_A and B; nothing is dropped, as in peft. `token_rows` (see `TokenRows`) are the
    rows of some tokens. An embedding that scales what it looks up (Gemma's) scales all of it. What
    is trained is not cast by `.to(dtype)`. Made by `prepare_model`.
    """

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None
    token_rows: TokenRows | None
    embed_scale: torch.Tensor | float | None

    def __init__(self, embedding: nn.Embedding) -> None:
        """Over the same weight, which may be the head's too; without adapter."""
        super(nn.Embedding, self).__init__()  # not nn.Embedding's own: it would allocate a weight
        self.num_embeddings = embedding.num_embeddings
        self.embedding_dim = embedding.embedding_dim
        for name in ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"):
            setattr(self, name, getattr(embedding, name))
        scale = getattr(embedding, "embed_scale", None)
        if isinstance(scale, torch.Tensor):
            self.register_buffer("embed_scale", scale, persistent=False)
        else:
            self.embed_scale = scale
        self.weight = embedding.weight
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)
        self.token_rows = None
        self.alpha, self.rslora = 0.0, False
        self.adapter_enabled = True
        self.unmerged_weight: torch.Tensor | None = None  # what `merge_adapter` replaced
        self.train(embedding.training)

    def add_adapter(self, config: QLoRAConfig, name: str = "") -> None:
        """A fresh adapter: A zero and B random, so that tokens that never come keep their rows."""
        rank, device = config.rank_of(name), self.weight.device
        a = torch.zeros(rank, self.num_embeddings, dtype=torch.float32, device=device)
        b = torch.randn(self.embedding_dim, rank, dtype=torch.float32, device=device)
        self.set_adapter(a, b, config.alpha_of(name), config.rslora)

    def set_adapter(
        self, a: torch.Tensor, b: torch.Tensor, alpha: float, rslora: bool = False
    ) -> None:
        """Take these factors, a [rank, vocabulary] and b [dim, rank]; in place where they fit."""
        self._check_unmerged("set_adapter")
        sizes = {"v": self.num_embeddings, "d": self.embedding_dim}
        check_shapes("set_adapter", sizes, a=(a, "r v"), b=(b, "d r"))
        for name, factor in (("lora_a", a), ("lora_b", b)):
            held = getattr(self, name)
            if held is not None and held.shape == factor.shape:
                held.data.copy_(factor)
            else:
                own = torch.empty(factor.shape, dtype=torch.float32, device=self.weight.device)
                setattr(self, name, nn.Parameter(own.copy_(factor.detach())))
        self.alpha, self.rslora = alpha, rslora

    def remove_adapter(self) -> None:
        """Leave the frozen weight alone, rows of tokens too."""
        self._check_unmerged("remove_adapter")
        self.lora_a = self.lora_b = self.token_rows = None

    def set_rows(self, tokens: Sequence[int], rows: torch.Tensor | None = None) -> None:
        """Train rows [tokens, dim] for these tokens, from these values or those of W on."""
        self._check_unmerged("set_rows")
        self.token_rows = rows_for(self.token_rows, self.weight, tokens, rows, self.padding_idx)

    @property
    def scaling(self) -> float:
        """s: alpha / rank, or alpha / sqrt(rank) with rsLoRA; 0 without adapter."""
        if self.lora_a is None:
            return 0.0
        rank = self.lora_a.shape[0]
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    @property
    def adapter(self) -> Adapter | None:
        """The update of W [vocabulary, dim] as that of a linear layer; None without factors."""
        if self.lora_a is None or self.lora_b is None:
            return None
        return Adapter(self.lora_b.T, self.lora_a.T, self.scaling)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [...], token ids -> [..., dim] in W's dtype."""
        y: torch.Tensor = super().forward(x)
        if self.adapter_enabled and self.unmerged_weight is None:
            if self.lora_a is not None and self.lora_b is not None:
                y = (y + self._update(x, torch.promote_types(y.dtype, torch.float32))).to(y.dtype)
            if self.token_rows is not None:
                y = self.token_rows.look_up(x, y)
        if self.embed_scale is None:
            return y
        if isinstance(self.embed_scale, torch.Tensor):
            return y * self.embed_scale.to(y.dtype)
        return y * self.embed_scale

    def _update(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        assert self.lora_a is not None and self.lora_b is not None
        low = functional.embedding(x, self.lora_a.to(dtype).T, self.padding_idx)  # [..., rank]
        return self.scaling * (low @ self.lora_b.to(dtype).T)

    def _apply(self, fn: Cast, recurse: bool = True) -> Any:
        """Move everything, but cast only the weight (and the scale, which comes along)."""
        scale = [self.embed_scale] if isinstance(self.embed_scale, torch.Tensor) else []
        return super()._apply(casting_only(fn, [self.weight, *scale]), recurse)  # type: ignore[no-untyped-call]

    def _check_unmerged(self, who: str) -> None:
        if self.unmerged_weight is not None:
            raise InputError(f"{who}: the layer should be unmerged (unmerge_adapter), is merged")

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        rank = 0 if self.lora_a is None else self.lora_a.shape[0]
        return f"{super().extra_repr()}, rank={rank}"
