"""Rows of a few tokens that are trained while the rest of an embedding or a head stays frozen."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qlora_kernels.nn.casting import Cast, casting_only


class TokenRows(nn.Module):
    """`rows` [tokens, dim], float32, in place of the rows `indices` of a weight [vocabulary, dim].

    They are the rows themselves, no difference (peft's trainable_tokens_delta, for all its name). A
    head that is tied to the embedding holds the same TokenRows: what both learn is added up.
    """

    indices: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        tokens: Sequence[int],
        rows: torch.Tensor | None = None,
        padding_idx: int | None = None,
    ) -> None:
        """tokens: different ones, in ascending order; rows: None for those of the weight.

        padding_idx: a token of which the embedding teaches nothing, as in `nn.Embedding`.
        """
        super().__init__()
        self.tokens = tuple(tokens)
        places = torch.tensor(self.tokens, dtype=torch.int64, device=weight.device)
        self.register_buffer("indices", places, persistent=False)
        values = weight.detach()[places] if rows is None else rows.detach()
        self.rows = nn.Parameter(values.to(weight.device, torch.float32, copy=True))
        known = padding_idx is not None and padding_idx in self.tokens
        self.padding_place = self.tokens.index(padding_idx) if known else None

    def look_up(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y [..., dim] = weight[x], with the rows of the tokens x that have one."""
        place = torch.searchsorted(self.indices, x).clamp(max=len(self.tokens) - 1)
        own = functional.embedding(place, self.rows, self.padding_place).to(y.dtype)
        return torch.where((self.indices[place] == x)[..., None], own, y)

    def merged_into(self, weight: torch.Tensor) -> torch.Tensor:
        """A copy of the weight with the rows in it."""
        return weight.detach().index_copy(0, self.indices, self.rows.detach().to(weight.dtype))

    def _apply(self, fn: Cast, recurse: bool = True) -> Any:
        """Move the rows, but do not cast them."""
        return super()._apply(casting_only(fn, ()), recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"tokens={len(self.tokens)}"


class TokenHead(nn.Linear):
    """`y = x W^T + bias`, with the trained rows of some tokens in place of those of W.

    Whoever multiplies by `weight` himself, and does not call the head, misses the rows.
    """

    def __init__(self, head: nn.Linear) -> None:
        """Over the same weight, which may be the embedding's too; without rows."""
        super(nn.Linear, self).__init__()
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight = head.weight
        self.register_parameter("bias", head.bias)
        self.token_rows: TokenRows | None = None
        self.adapter_enabled = True
        self.unmerged_weight: torch.Tensor | None = None  # what `merge_adapter` replaced
        self.train(head.training)

    def set_rows(self, tokens: Sequence[int], rows: torch.Tensor | None = None) -> None:
        """Train rows [tokens, dim] for these tokens, from these values or those of W on."""
        self.token_rows = rows_for(self.token_rows, self.weight, tokens, rows)

    def remove_adapter(self) -> None:
        """Leave the frozen weight alone."""
        self.token_rows = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., dim] -> [..., vocabulary]."""
        y = super().forward(x)
        if self.token_rows is None or self.unmerged_weight is not None or not self.adapter_enabled:
            return y
        indices, rows = self.token_rows.indices, self.token_rows.rows
        bias = None if self.bias is None else self.bias[indices]
        own = functional.linear(x, rows.to(x.dtype), bias)
        return y.index_copy_(-1, indices, own.to(y.dtype))  # linear keeps no output for backward


def rows_for(
    held: TokenRows | None,
    weight: torch.Tensor,
    tokens: Sequence[int],
    rows: torch.Tensor | None = None,
    padding_idx: int | None = None,
) -> TokenRows:
    """The rows that are held, which an optimizer may know, if they are these tokens'; or new ones.

    The arguments are those of `TokenRows`.
    """
    if held is None or held.tokens != tuple(tokens):
        return TokenRows(weight, tokens, rows, padding_idx)
    if rows is not None:
        held.rows.data.copy_(rows)
    return held
