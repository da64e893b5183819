"""Which models `DecoderStep` knows: those whose layers do what it does, and nothing else.

A model is known by the classes of its modules, since a subclass may do anything. A class whose
forward was replaced, a hook, a compiled module, training: each is a reason for the model's own way.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qlora_kernels.nn import QLoRALinear
from qlora_kernels.nn.qlora_linear import autocast_dtype, linear_of
from qlora_kernels.nn.shared_input import has_other_hooks
from qlora_kernels.ops.qlora_linear import repeated

# model_type -> how the names of its classes begin.
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
LINEARS = (*QKV, "self_attn.o_proj", *GATE_UP, "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
_LAYER = {"": "DecoderLayer", "self_attn": "Attention", "mlp": "MLP"} | dict.fromkeys(
    NORMS, "RMSNorm"
)
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_WITH_HEAD_NORMS = ("qwen3",)
_OURS = (QLoRALinear.__module__, QLoRALinear.__qualname__)


def refusal(model: Any, cache: Any) -> str | None:
    """Why the steps of this model over this cache are not known, in a sentence, or None."""
    return next(_reasons(model, cache), None)


def decoder_layers(model: Any) -> list[Any]:
    """Those that its forward runs."""
    return list(model.model.layers[: model.config.num_hidden_layers])


def linear(layer: nn.Module, path: str) -> QLoRALinear:
    """One of LINEARS."""
    found = layer.get_submodule(path)
    assert isinstance(found, QLoRALinear)
    return found


def _reasons(model: Any, cache: Any) -> Iterator[str]:
    """The first is the one that counts: those after it rely on what it says."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        yield f"models of type {kind} are not known"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        yield "hooks watch every module"
    for path, module in model.named_modules():
        if has_other_hooks(module):
            yield f"{path or 'the model'} is hooked"
        if module.training:
            yield f"{path or 'the model'} is in training mode"
    home, family = f"transformers.models.{kind}.modeling_{kind}", FAMILIES[kind]
    yield from _strangers(model, {"": "ForCausalLM", "model": "Model"}, home, family)
    yield from _reasons_of_attention(model.config, sys.modules[home])
    parts = _LAYER | dict.fromkeys(HEAD_NORMS if kind in _WITH_HEAD_NORMS else (), "RMSNorm")
    for layer in decoder_layers(model):
        yield from _strangers(layer, parts, home, family)
        yield from _strangers(layer, dict.fromkeys(LINEARS, ""), *_OURS)
    yield from _reasons_of_cache(model, cache)
    yield from _reasons_of_tensors(model, cache.layers[0].keys)


def _reasons_of_attention(config: Any, home: Any) -> Iterator[str]:
    """home: the module of the model's class, whose eager attention is that of all who have none."""
    kind = config._attn_implementation
    attention = ALL_ATTENTION_FUNCTIONS.get(kind, home.eager_attention_forward)
    if kind not in ("sdpa", "eager") or not _lies_in(attention, "transformers"):
        yield f"attention is of the kind {kind}, by {attention}"
    # Of a cache's kind that is no sign: it may be made without the config, or by types of layers
    # that a Mistral does not read.
    is_windowed = config.model_type == "mistral" and config.sliding_window is not None
    if is_windowed or "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        yield f"attention looks back {config.sliding_window} tokens"


def _lies_in(function: Any, package: str) -> bool:
    """Whether its code does: `functools.wraps` gives a wrapper the name of what it wraps."""
    home: str = getattr(function, "__globals__", {}).get("__name__", "")
    return home.partition(".")[0] == package


def _strangers(root: nn.Module, parts: dict[str, str], home: str, family: str) -> Iterator[str]:
    """parts: path -> rest of the class' name."""
    for path, rest in parts.items():
        module, name = root.get_submodule(path), family + rest
        kind = type(module)
        forward = kind.forward
        if (kind.__module__, kind.__qualname__) != (home, name):
            yield f"{path or 'it'} is a {kind.__qualname__}, where {name} is known"
        is_own = _lies_in(forward, home.partition(".")[0]) and (
            (forward.__module__, forward.__qualname__) == (home, f"{name}.forward")
        )
        if not is_own or "forward" in vars(module) or module._compiled_call_impl is not None:
            yield f"{path or name} has another forward than its class had"


def _reasons_of_cache(model: Any, cache: Any) -> Iterator[str]:
    own = type(cache) is DynamicCache and not cache.offloading
    if not own or any(type(layer) is not DynamicLayer for layer in cache.layers):
        yield "the cache is not the one that keeps all tokens"
    places = [layer.self_attn.layer_idx for layer in decoder_layers(model)]
    if places != list(range(len(cache.layers))):
        yield "the cache has other layers than the model"
    if not cache.get_seq_length():
        yield "the cache is not that of a prompt"
    if cache.layers[0].keys.shape[0] != 1:
        yield f"there are {cache.layers[0].keys.shape[0]} sequences"


def _reasons_of_tensors(model: Any, keys: torch.Tensor) -> Iterator[str]:
    layers, dtype = decoder_layers(model), keys.dtype
    if autocast_dtype(keys.device.type) is not None:
        yield "autocast is on"
    norms = [layer.get_submodule(name).weight for layer in layers for name in NORMS]
    if any(weight.dtype != dtype for weight in (model.get_input_embeddings().weight, *norms)):
        yield f"a norm or the embedding is not of the computation's {dtype}"
    for layer in layers:
        parts = layer.self_attn.named_children()
        if len({norm.variance_epsilon for name, norm in parts if "norm" in name}) > 1:
            yield "norms of heads have different epsilons"
    linears = [[linear(layer, name) for name in LINEARS] for layer in layers]
    if len({tuple((m.in_features, m.out_features) for m in row) for row in linears}) > 1:
        yield "layers have different sizes"
    for row in linears:
        for name, layer in zip(LINEARS, row, strict=True):
            reason = repeated.refuses(linear_of(layer), keys)
            if reason is not None:
                yield f"{name}: {reason}"
