"""The loop that makes one token after the other, for transformers' `generate` to run.

`generate` prepares the cache, the processors of scores and the criteria for an end, once. Its own
loop prepares positions and masks anew for every token, as padded batches need; for one sequence a
model counts them in its cache.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def decoder(model: Any, streamer: Any = None) -> Callable[..., torch.Tensor] | None:
    """`custom_generate` of `model.generate`: `decode`; None for a model with a cache of its own.

    `generate` hands the streamer, which it gives the prompt, to its own loops only.
    """
    has_cache = "past_key_values" in inspect.signature(model.forward).parameters
    if not has_cache or getattr(model, "_is_stateful", False):
        return None
    return partial(decode, receiver=streamer)


def decode(
    model: Any,
    input_ids: torch.Tensor,
    generation_config: Any,
    past_key_values: Any,
    receiver: Any = None,
    **prepared: Any,
) -> torch.Tensor:
    """[1, prompt] -> [1, prompt and answer], the likeliest token each time or a sampled one."""
    options = {name: prepared[name] for name in ("logits_to_keep",) if name in prepared}
    tokens = given = input_ids
    done = False
    while not done:
        outputs = model(given, past_key_values=past_key_values, use_cache=True, **options)
        scores = outputs.logits[:, -1].to(torch.float32, copy=True)  # processors may change it
        scores = prepared["logits_processor"](tokens, scores)
        if generation_config.do_sample:
            given = torch.multinomial(scores.softmax(-1), num_samples=1)
        else:
            given = scores.argmax(-1, keepdim=True)
        tokens = torch.cat((tokens, given), dim=-1)
        if receiver is not None:
            receiver.put(given[0])
        done = bool(prepared["stopping_criteria"](tokens, None).all())
    if receiver is not None:
        receiver.end()
    return tokens
