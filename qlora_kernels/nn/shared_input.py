"""Layers of one parent that read the same tensor, q, k and v or gate and up, run as one op call.

While the parent's forward runs, its members share a `SharedInput`: the first that is called
computes for all, the others take what is theirs. It ends with the parent's forward, so that nothing
is kept between calls, and a layer that is called on its own computes on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qlora_kernels.nn.qlora_linear import QLoRALinear, autocast_dtype, forward_all

# Children of one parent that all get the parent's own input, by their names in the usual models.
SIBLINGS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("w1", "w3"),
)
# Attention over another sequence: q reads one tensor, k and v another.
_CROSS_ATTENTION = ("encoder_attn", "cross_attn", "crossattention", "multihead_attn")


def share_inputs(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Let siblings that read the same tensor run as one call; returns parent -> their names.

    Results are those of separate calls. Parents that share already, and cross-attention, are left
    as they are.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, parent in model.named_modules():
        crosses = any(part in name.lower() for part in _CROSS_ATTENTION)
        shares = any(isinstance(hook, _Open) for hook in parent._forward_pre_hooks.values())
        if crosses or shares:
            continue
        for siblings in SIBLINGS:
            if _members(parent, siblings):
                parent.register_forward_pre_hook(_Open(siblings))
                parent.register_forward_hook(_Close(siblings), always_call=True)
                found[name] = siblings
    return found


class SharedInput:
    """The outputs of several layers for one input, computed at the first call of any of them."""

    def __init__(self, layers: Sequence[QLoRALinear]) -> None:
        """`layers` [in, out_i]: those that are expected to be called with one tensor."""
        self.layers = layers
        # x with what else decides, and outputs not yet taken: one value, since threads may share
        # the layers.
        self.known: tuple[tuple[Any, ...], dict[QLoRALinear, torch.Tensor]] | None = None

    def output(self, layer: QLoRALinear, x: torch.Tensor) -> torch.Tensor:
        """y of this layer; of all of them, if x is new or `layer` had its own already."""
        key = (_version(x), torch.is_grad_enabled(), autocast_dtype(x.device.type))
        if (known := self.known) is not None and known[0][0] is x and known[0][1:] == key:
            y = known[1].pop(layer, None)
            if y is not None:
                return y
        outputs = dict(zip(self.layers, forward_all(self.layers, x), strict=True))
        self.known = ((x, *key), outputs)
        return outputs.pop(layer)


def _version(x: torch.Tensor) -> int | None:
    """What a change of x in place counts up.

    Inference tensors do not count, nor can the compiler trace it: none of the models that SIBLINGS
    names changes x between two of them.
    """
    if torch.compiler.is_compiling() or x.is_inference():
        return None
    return x._version


def _members(parent: nn.Module, names: Sequence[str]) -> list[QLoRALinear]:
    """The named children, if all of them are our layers and take an input of one width."""
    children = [parent._modules.get(name) for name in names]
    layers = [c for c in children if isinstance(c, QLoRALinear)]
    fits = len(layers) == len(names) and len({layer.in_features for layer in layers}) == 1
    return layers if fits else []


def _share(layers: Sequence[QLoRALinear], shared: SharedInput | None) -> None:
    for layer in layers:
        layer.__dict__["shared_input"] = shared  # past nn.Module's search for parameters


# The hooks know names only, so that copies, pickles and replaced children need no care.


@dataclass(frozen=True)
class _Open:
    names: tuple[str, ...]

    def __call__(self, parent: nn.Module, _: Any) -> None:
        layers = _members(parent, self.names)
        _share(layers, SharedInput(layers))


@dataclass(frozen=True)
class _Close:
    names: tuple[str, ...]

    def __call__(self, parent: nn.Module, *_: Any) -> None:
        for name in self.names:
            child = parent._modules.get(name)
            shared = child.shared_input if isinstance(child, QLoRALinear) else None
            if shared is not None:
                _share(shared.layers, None)
                return


def has_other_hooks(module: nn.Module) -> bool:
    """Whether anything but `share_inputs` hooks into its forward."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return not all(isinstance(hook, _Open | _Close) for hook in hooks)
