"""Shapes by a model's name: the linear layers of one block, [out, in], each distinct one once."""

import re

from qlora.plan.models import MODELS
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

# Those whose blocks have q, k, v, o, gate, up and down, and as many queries as hidden units.
_MODELS = {
    name: model
    for name, model in MODELS.items()
    if not model.traits.gpt2 and model.query == model.hidden
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
    model = _MODELS[name]
    hidden, key_value, intermediate = model.hidden, model.key_value, model.intermediate
    if op == "linear_cross_entropy":
        return [(f"{name} head", model.vocabulary, hidden)]
    return [
        (f"{name} q/o", hidden, hidden),
        (f"{name} k/v", key_value, hidden),
        (f"{name} gate/up", intermediate, hidden),
        (f"{name} down", hidden, intermediate),
    ]
