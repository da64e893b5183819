"""Shapes by a model's name: the linear layers of one block, [out, in], each distinct one once."""

import re

from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

# hidden, key and value width, intermediate, vocabulary; from the models' configuration files.
_MODELS = {
    "smollm2": (576, 192, 1536, 49152),
    "llama-7b": (4096, 4096, 11008, 32000),
    "llama-8b": (4096, 1024, 14336, 128256),
    "llama-70b": (8192, 1024, 28672, 128256),
    "qwen-7b": (3584, 512, 18944, 152064),
}
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
    if name not in _MODELS:
        hint = did_you_mean(name, _MODELS) or f" (known: {', '.join(_MODELS)}, or NxK)"
        raise InputError(f"bench: --shapes should name a model or NxK, was {name!r}{hint}")
    hidden, key_value, intermediate, vocabulary = _MODELS[name]
    if op == "linear_cross_entropy":
        return [(f"{name} head", vocabulary, hidden)]
    return [
        (f"{name} q/o", hidden, hidden),
        (f"{name} k/v", key_value, hidden),
        (f"{name} gate/up", intermediate, hidden),
        (f"{name} down", hidden, intermediate),
    ]
