"""Which layers to look at when a step went wrong: large gradients over coarse codes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import Parameter

import qlora_kernels as qk
from qlora.guard.watch.code_noise import code_noise
from qlora_kernels.formats import QuantizedTensor

LISTED = 8  # layers that a row names
NAMED = 3  # and a sentence
CANDIDATES = 32  # layers whose codes are looked at


@dataclass(frozen=True)
class Gradients:
    """The gradients of one step by module, as they lie in the parameters."""

    norms: dict[str, float]  # of modules where all values are finite, largest first
    nonfinite: dict[str, int]  # values that are not, of the others


def gradients_by_module(parameters: Mapping[str, Parameter]) -> Gradients:
    """Sums over the parameters of a module, a layer's A, B and magnitude for instance."""
    squares: dict[str, float] = {}
    nonfinite: dict[str, int] = {}
    for name, parameter in parameters.items():
        if parameter.grad is None:
            continue
        module = name.rpartition(".")[0]
        if bad := int((~parameter.grad.isfinite()).sum()):
            nonfinite[module] = nonfinite.get(module, 0) + bad
        square = float(parameter.grad.double().square().sum())
        squares[module] = squares.get(module, 0.0) + square
    norms = {name: math.sqrt(s) for name, s in squares.items() if name not in nonfinite}
    return Gradients(dict(sorted(norms.items(), key=lambda item: -item[1])), nonfinite)


def most_brittle(model: nn.Module, gradients: Gradients) -> list[str]:
    """Quantized layers by gradient norm x relative error of their codes, largest first.

    Where no gradient is finite, by the error alone.
    """
    layers = {
        name: base
        for name, layer in qk.nn.quantized_layers(model).items()
        if isinstance(base := layer.base, QuantizedTensor)
    }
    known = [name for name in gradients.norms if name in layers][:CANDIDATES]
    risks = {
        name: gradients.norms.get(name, 1.0) * code_noise(layers[name]) for name in known or layers
    }
    return sorted(risks, key=lambda name: -risks[name])[:NAMED]


def shares(gradients: Gradients) -> str:
    """`a.b (62 %), c.d (11 %)`: the modules with most of the squared gradient norm."""
    total = sum(norm**2 for norm in gradients.norms.values())
    first = list(gradients.norms.items())[:NAMED]
    return ", ".join(f"{name} ({norm**2 / total:.0%})" for name, norm in first if total)


@torch.no_grad()
def listed(gradients: Gradients) -> dict[str, float]:
    """The largest norms, for a row of metrics.jsonl."""
    return dict(list(gradients.norms.items())[:LISTED])
