"""The loop that makes one token after the other, for transformers' `generate` to run.

`generate` prepares the cache, the processors of scores and the criteria for an end, once. Its own
loop prepares what the model gets anew for every token, as padded batches need; for one sequence
positions count up and no mask is needed. After the prompt a `DecoderStep` takes over from the
model's own forward, where it knows the model.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin

from qlora.decoder_step import decoder_step
from qlora_kernels.errors import InputError

# A model that has one of these for itself wants other inputs than `decode` gives.
_PREPARATIONS = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")


def decoder(model: Any, streamer: Any = None) -> Callable[..., torch.Tensor] | None:
    """`custom_generate` of `model.generate`: `decode`, or None where transformers' loop must run.

    That is for a model that keeps a state or prepares inputs in a way of its own, and one whose
    generation_config asks for beams, several answers or no cache. `generate` hands the streamer,
    which it gives the prompt, to its own loops only.
    """
    if not (_keeps_a_cache(model) and _wants_one_answer(model.generation_config)):
        return None
    return partial(decode, receiver=streamer)


def _keeps_a_cache(model: Any) -> bool:
    """Whether it is the one that `generate` makes for it."""
    own = any(
        getattr(type(model), name) is not getattr(GenerationMixin, name) for name in _PREPARATIONS
    )
    return (
        not own
        and not getattr(model, "_is_stateful", False)
        and model._supports_default_dynamic_cache()
        and "past_key_values" in inspect.signature(model.forward).parameters
    )


def _wants_one_answer(config: GenerationConfig) -> bool:
    """Token by token, over a cache."""
    return (
        config.get_generation_mode() in ("greedy_search", "sample")
        and config.num_return_sequences in (None, 1)
        and config.use_cache is not False
    )


def decode(
    model: Any,
    input_ids: torch.Tensor,
    generation_config: GenerationConfig,
    past_key_values: Any,
    receiver: Any = None,
    **prepared: Any,
) -> torch.Tensor:
    """[1, prompt] -> [1, prompt and answer], the likeliest token each time or a sampled one.

    Raises InputError where `generate` was asked for what this loop would leave out.
    """
    _check(input_ids, generation_config, prepared.get("attention_mask"))

    def own(token: torch.Tensor, **options: Any) -> Any:
        return model(token, past_key_values=past_key_values, use_cache=True, **options).logits

    options = {n: prepared[n] for n in ("logits_to_keep", "position_ids") if n in prepared}
    logits, tokens = own(input_ids, **options), input_ids
    options.pop("logits_to_keep", None)
    step = (decoder_step(model, past_key_values) if options else None) or own
    while True:
        scores = logits[:, -1].to(torch.float32, copy=True)  # processors may change it
        scores = prepared["logits_processor"](tokens, scores)
        if generation_config.do_sample:
            given = torch.multinomial(scores.softmax(-1), num_samples=1)
        else:
            given = scores.argmax(-1, keepdim=True)
        tokens = torch.cat((tokens, given), dim=-1)
        if receiver is not None:
            receiver.put(given[0])
        if prepared["stopping_criteria"](tokens, None).all():
            break
        if options:  # some models would count from the tokens that they are given
            options["position_ids"] = options["position_ids"][..., -1:] + 1
        logits = step(given, **options)
    if receiver is not None:
        receiver.end()
    return tokens


def _check(tokens: torch.Tensor, config: GenerationConfig, mask: torch.Tensor | None) -> None:
    if not _wants_one_answer(config):
        raise InputError(
            "decode: the generation_config should ask for one answer, token by token, over a cache,"
            f" asks for {config.get_generation_mode().value},"
            f" {config.num_return_sequences or 1} of them, use_cache={config.use_cache}"
        )
    padded = mask is not None and not mask.all()
    if tokens.shape[0] != 1 or padded:
        raise InputError(
            "decode: the prompt should be one sequence without padding, was"
            f" {tokens.shape[0]}{' with padding' * padded}"
        )
