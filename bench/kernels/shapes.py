"""Shapes by a model's name: the linear layers of one block, [out, in], each distinct one once.

A label names all layers of its shape: `llama-7b q/k/v/o`, but `llama-8b q/o` and `llama-8b k/v`.
"""

import re

from qlora.plan.models import MODELS
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

_N_BY_K = re.compile(r"(\d+)x(\d+)")


def shapes(names: str, op: str) -> list[tuple[str, int, int]]:
    """(label, n, k) for each of the comma-separated model names or NxK; a loss takes the head."""
    found: dict[tuple[int, int], str] = {}
    for name in names.split(","):
        for label, n, k in _shapes_of(name.strip(), op):
            found.setdefault((n, k), label)
    return [(label, n, k) for (n, k), label in found.items()]


def _shapes_of(name: str, op: str) -> list[tuple[str, int, int]]:
    if match := _N_BY_K.fullmatch(name):
        return [(name, int(match[1]), int(match[2]))]
    if name not in MODELS:
        hint = did_you_mean(name, MODELS) or f" (known: {', '.join(MODELS)}, or NxK)"
        raise InputError(f"bench: --shapes should name a model or NxK, was {name!r}{hint}")
    model = MODELS[name]
    if op == "linear_cross_entropy":
        return [(f"{name} head", model.vocabulary, model.hidden)]
    alike: dict[tuple[int, int], list[str]] = {}
    for layer in model.block:
        last = layer.name.rpartition(".")[2]
        short = layer.name if model.traits.gpt2 else last.removesuffix("_proj")
        alike.setdefault((layer.n, layer.k), []).append(short)
    return [(f"{name} {'/'.join(layers)}", n, k) for (n, k), layers in alike.items()]
