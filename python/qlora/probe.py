"""A small forward pass that proves the objective fits a model, instead of a list of names.

Models that scale or cap their logits (Gemma 2, Cohere, Granite) or bias their head would train on
a wrong loss without an error; packing would be wrong for those that ignore where examples begin.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora.data.isolation import check_isolation
from qlora.objective import head_logits, vocabulary_size
from qlora_kernels.errors import InputError

TOKENS = 16


def check_model(model: PreTrainedModel, sequence_length: int, packing: bool) -> None:
    """Refuse, with InputError, a model that `qlora.objective` would compute a wrong loss for."""
    _check_parts(model)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and sequence_length > longest:
        raise InputError(
            f"model: sequence_length should be at most the {longest} positions of the model,"
            f" was {sequence_length}"
        )
    _check_logits(model)
    if packing:
        check_isolation(model)


def _check_parts(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    if model.base_model is model or head is None:
        raise InputError(
            "model: should be a causal LM with a base model and an output head, was"
            f" {type(model).__name__} without"
        )


def _check_logits(model: PreTrainedModel) -> None:
    """The model's logits against the head applied to the hidden states of the same pass."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output.last_hidden_state)

    hook = model.base_model.register_forward_hook(keep)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=_tokens(model), use_cache=False).logits.float()
            plain = head_logits(model, seen[0])
    finally:
        hook.remove()
        model.train(training)
    distance = float((logits - plain.float()).norm() / logits.norm())
    if not distance <= 8 * torch.finfo(plain.dtype).eps:
        raise InputError(
            "model: logits should be the head applied to the last hidden states, was"
            f" {type(model).__name__}, which scales, caps or biases them"
        )


def _tokens(model: PreTrainedModel) -> Tensor:
    """Token ids spread over the vocabulary, [1, TOKENS]."""
    return (torch.arange(1, TOKENS + 1, device=model.device) * 7919 % vocabulary_size(model))[None]
