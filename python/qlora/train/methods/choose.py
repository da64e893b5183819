"""From settings to a model that is prepared for its method."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

import qlora_kernels as qk
from qlora.train.methods.bottleneck import Bottleneck
from qlora.train.methods.full import Full
from qlora.train.methods.lora import Lora
from qlora.train.methods.method import Method
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError


def make_method(model: PreTrainedModel, tokenizer: Any, settings: TrainSettings) -> Method:
    """Change the model in place as the method needs it, move it to the first GPU, if there is one.

    All but "full" keep the base frozen, in `settings.format`. Raises InputError for settings that
    the method cannot take, and where it needs peft and there is none.
    """
    if settings.method in ("prompt", "prefix") and find_spec("peft") is None:
        raise InputError(
            f"train: peft should be installed for method {settings.method}, is not"
            " (pip install 'peft>=0.21')"
        )
    if settings.method == "full":
        if settings.format != "none":
            raise InputError(
                "train: format should be none for method full, which trains the base itself,"
                f" was {settings.format}"
            )
        if qk.nn.quantized_layers(model):
            raise InputError("train: model should be dense for method full, was quantized")
        return Full(_on_device(model), tokenizer)
    tokens = token_ids(settings.trainable_tokens, tokenizer) if settings.method == "lora" else ()
    qk.prepare_model(model, replace(settings.layers, trainable_tokens=tokens))
    if settings.method == "lora":
        return Lora(_on_device(model), settings.rank)
    if settings.method == "bottleneck":
        return Bottleneck(_on_device(model), settings.rank)
    # They need peft, which only who compares methods installs.
    from qlora.train.methods.virtual_tokens import Prefix, Prompt

    kind: type[Prompt | Prefix] = Prompt if settings.method == "prompt" else Prefix
    return kind(_on_device(model), settings.rank)


def token_ids(tokens: Sequence[int | str], tokenizer: Any) -> tuple[int, ...]:
    """Numbers as they are, texts as the tokenizer numbers them; InputError for what is no token."""
    known = tokenizer.get_vocab()
    for token in tokens:
        if isinstance(token, str) and token not in known:
            raise InputError(
                f"train: trainable_tokens should be tokens of the model, {token!r} is none (add it"
                " to the tokenizer and resize the embedding first)"
            )
    return tuple(known[token] if isinstance(token, str) else token for token in tokens)


def _on_device(model: PreTrainedModel) -> PreTrainedModel:
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    return model
