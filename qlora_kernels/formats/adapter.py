"""The low-rank adapter of one linear layer, as one frozen value."""

from dataclasses import dataclass

import torch

from qlora_kernels.errors import InputError

DROPOUT_ON = ("rank", "input")


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank update `s B A` of a frozen weight W (LoRA, arXiv 2106.09685).

    a: [rank, in], b: [out, rank], any float dtype (trained in float32); scaling: s = alpha / rank,
    or alpha / sqrt(rank) with rsLoRA. With dropout p > 0, `dropout_on="rank"` drops the output of
    A (a mask over [m, rank]) and `"input"` its input (peft's meaning, a mask over [m, in]).

    magnitude: [out], of each output feature of `W + s B A`, which makes it DoRA (arXiv 2402.09353);
    None for LoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    dropout: float = 0.0
    dropout_on: str = "rank"
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]

    def check(self, op: str) -> None:
        """Refuse a dropout that is no probability, or a place where none can fall."""
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"{op}: dropout should be in [0, 1), was {self.dropout}")
        if self.dropout_on not in DROPOUT_ON:
            places = " or ".join(DROPOUT_ON)
            raise InputError(f"{op}: dropout_on should be {places}, was {self.dropout_on!r}")
