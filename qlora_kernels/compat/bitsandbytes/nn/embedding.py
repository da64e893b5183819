"""Embeddings: in 4 bits, and those that optimizers keep 32-bit states for."""

import logging
from typing import Any

import torch
from torch import nn

from qlora_kernels.compat.bitsandbytes.functional import QuantState, dequantize_4bit
from qlora_kernels.compat.bitsandbytes.functional.blockwise import effective_absmax
from qlora_kernels.compat.bitsandbytes.nn.params4bit import Params4bit, recover_quant_state
from qlora_kernels.compat.bitsandbytes.optim import GlobalOptimManager

_LOGGER = logging.getLogger(__name__)


class Embedding4bit(nn.Embedding):
    """Rows of a packed 4-bit table; moving it to a device quantizes it (`Params4bit`)."""

    weight: Params4bit

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: torch.dtype | None = None,
        quant_type: str = "fp4",
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
    ) -> None:
        """dtype: of the rows that come out."""
        super().__init__(num_embeddings, embedding_dim, device=device, dtype=dtype)
        self.dtype = self.weight.dtype
        self.quant_storage = quant_storage
        self.weight = Params4bit(
            self.weight.data,
            compress_statistics=False,
            quant_type=quant_type,
            quant_storage=quant_storage,
            module=self,
        )
        if embedding_dim % self.weight.blocksize:
            _LOGGER.warning(
                "Embedding size %d is not divisible by block size %d: each lookup decodes the "
                "whole table. This will lead to slow inference.",
                embedding_dim,
                self.weight.blocksize,
            )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """indices [...] -> [..., embedding_dim]; only the rows are decoded, if blocks end there."""
        state = recover_quant_state(self)
        size, width = state.blocksize, self.embedding_dim
        if size is None or width % size:
            table = dequantize_4bit(self.weight, state)
            return nn.functional.embedding(input, table).to(self.dtype)
        codes = self.weight.data.view(torch.uint8).view(self.num_embeddings, width // 2)[input]
        scales = effective_absmax(state).view(self.num_embeddings, width // size)[input]
        facts = (state.code, size, state.quant_type, state.dtype)
        rows = QuantState(scales.reshape(-1), torch.Size((*input.shape, width)), *facts)
        return dequantize_4bit(codes.reshape(-1), rows).to(self.dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise NotImplementedError(f"Saving {type(self).__name__} is not implemented")


class EmbeddingNF4(Embedding4bit):
    """`Embedding4bit` in NF4."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: torch.dtype | None = None,
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
    ) -> None:
        """As `Embedding4bit` without quant_type."""
        super().__init__(num_embeddings, embedding_dim, dtype, "nf4", quant_storage, device)


class EmbeddingFP4(Embedding4bit):
    """`Embedding4bit` in FP4."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: torch.dtype | None = None,
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
    ) -> None:
        """As `Embedding4bit` without quant_type."""
        super().__init__(num_embeddings, embedding_dim, dtype, "fp4", quant_storage, device)


class Embedding(nn.Embedding):
    """A float table, Xavier uniform, for which optimizers keep 32-bit states."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As torch.nn.Embedding."""
        super().__init__(*arguments, **named)
        manager = GlobalOptimManager.get_instance()
        manager.register_module_override(self, "weight", {"optim_bits": 32})

    def reset_parameters(self) -> None:
        """Xavier uniform, and 0 for the padding."""
        nn.init.xavier_uniform_(self.weight)
        if self.padding_idx is not None:
            with torch.no_grad():
                self.weight[self.padding_idx].fill_(0)


class StableEmbedding(Embedding):
    """`Embedding` and a layer norm in torch's default dtype."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As torch.nn.Embedding."""
        super().__init__(*arguments, **named)
        self.norm = nn.LayerNorm(self.embedding_dim, device=self.weight.device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """indices [...] -> [..., embedding_dim] of the weight's dtype."""
        rows: torch.Tensor = self.norm(super().forward(input).to(torch.get_default_dtype()))
        return rows.to(self.weight.dtype)
