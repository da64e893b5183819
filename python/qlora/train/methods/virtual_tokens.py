"""Prompt tuning and prefix tuning: virtual tokens before every example, the model untouched.

The modules that hold them are peft's. They come in by a hook on the base transformer, so training
and evaluation see a model like any other. Virtual tokens see only each other and are seen by every
token, which makes them the same for all examples of a packed row.
"""

from typing import Any

import torch
from peft import PrefixEncoder, PrefixTuningConfig, PromptEmbedding, PromptTuningConfig
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from qlora.train.methods.method import Shape, as_masters, parameter_count
from qlora.train.methods.parameter_files import InOneFile


class Prompt(InOneFile):
    """Embeddings [count, hidden] before those of the input (prompt tuning, arXiv 2104.08691)."""

    def __init__(self, model: PreTrainedModel, count: int) -> None:
        """`count` virtual tokens, which begin as the embeddings of random ones."""
        shape = Shape.of(model.config.get_text_config())
        config = PromptTuningConfig(
            num_virtual_tokens=count,
            token_dim=shape.hidden,
            num_transformer_submodules=1,
            prompt_tuning_init="SAMPLE_VOCAB",
        )
        self.words = model.get_input_embeddings()
        self.encoder = PromptEmbedding(config, self.words).to(model.device)
        self.parameters = as_masters(dict(self.encoder.named_parameters()))
        self.count = count
        model.base_model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.base_model.register_forward_hook(self._after)

    def _before(self, _: Any, __: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positions = _positions(inputs)
        tokens = inputs.pop("input_ids")
        embedded = self.words(tokens)
        virtual = self.encoder(_numbers(self.count, tokens)).to(embedded.dtype)
        first = torch.arange(self.count, device=tokens.device).expand(len(tokens), -1)
        own = torch.ones(self.count, self.count, dtype=torch.bool, device=tokens.device).tril()
        seen = torch.cat([own.expand(len(tokens), 1, -1, -1), _unseen(own, tokens)], dim=-1)
        mask = torch.cat([seen, _sees_virtual(positions, self.count)], dim=-2)
        return (), {
            **inputs,
            "inputs_embeds": torch.cat([virtual, embedded], dim=1),
            "position_ids": torch.cat([first, positions + self.count], dim=1),
            "attention_mask": _additive(mask, embedded.dtype),
        }

    def _after(self, _: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, self.count :]
        return output

    def describe(self) -> str:
        """How many, and where."""
        values = parameter_count(self.parameters)
        return f"{self.count} virtual tokens before the input, {values:,} parameters"


class Prefix(InOneFile):
    """Keys and values of virtual tokens in every layer (prefix tuning, arXiv 2101.00190)."""

    def __init__(self, model: PreTrainedModel, count: int) -> None:
        """`count` virtual tokens, which begin at random."""
        self.shape = Shape.of(model.config.get_text_config())
        config = PrefixTuningConfig(
            num_virtual_tokens=count,
            token_dim=self.shape.key_value_heads * self.shape.head_dim,
            num_layers=self.shape.layers,
            num_attention_heads=self.shape.key_value_heads,
            num_transformer_submodules=1,
        )
        self.encoder = PrefixEncoder(config).to(model.device)
        self.parameters = as_masters(dict(self.encoder.named_parameters()))
        self.count, self.dtype = count, model.dtype
        model.base_model.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, _: Any, __: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        tokens, positions = inputs["input_ids"], _positions(inputs)
        values = self.encoder(_numbers(self.count, tokens))  # [rows, count, 2 layers dim]
        values = values.to(self.dtype)  # that of the model's own keys and values
        cache = DynamicCache()
        heads = values.view(
            len(tokens), self.count, 2 * self.shape.layers, -1, self.shape.head_dim
        ).permute(2, 0, 3, 1, 4)
        for layer, (key, value) in enumerate(heads.split(2)):
            cache.update(key, value, layer)
        return (), {
            **inputs,
            "past_key_values": cache,
            "position_ids": positions + self.count,
            "attention_mask": _additive(_sees_virtual(positions, self.count), values.dtype),
        }

    def describe(self) -> str:
        """How many, and where."""
        values = parameter_count(self.parameters)
        return f"{self.count} virtual tokens in every layer, {values:,} parameters"


def _positions(inputs: dict[str, Any]) -> Tensor:
    """As given, or those of one example a row, [rows, length]."""
    given: Tensor | None = inputs.get("position_ids")
    tokens: Tensor = inputs["input_ids"]
    return _numbers(tokens.shape[1], tokens) if given is None else given


def _numbers(count: int, tokens: Tensor) -> Tensor:
    """0 ... count - 1 for every row, [rows, count]."""
    return torch.arange(count, device=tokens.device).expand(len(tokens), -1)


def _unseen(own: Tensor, tokens: Tensor) -> Tensor:
    """Virtual tokens see none of the input: [rows, 1, count, length], all False."""
    return own.new_zeros(len(tokens), 1, len(own), tokens.shape[1])


def _sees_virtual(positions: Tensor, count: int) -> Tensor:
    """Who of the input sees what: all virtual tokens, then its own example up to itself.

    bool [rows, 1, length, count + length]; an example begins where its positions do.
    """
    block = (positions == 0).cumsum(-1)
    length = positions.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    own = ((block[:, :, None] == block[:, None, :]) & causal)[:, None]
    return torch.cat([own.new_ones(len(positions), 1, length, count), own], dim=-1)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, the lowest number elsewhere: what eager and SDPA attention both take."""
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)
