"""Adapter values that training never moved.

    unchanged = values that equal their start, bit for bit / all trained values

The start is what training drew from its seed: A random, B zero, DoRA's magnitude the base's norm.
With AdamW every value that has ever had a gradient has moved, so a healthy run has next to none. A
share of 1 says that no update arrived: frozen parameters, or an optimizer that was given others. In
between, whole layers stand still (`by_layer`), or steps are too small for the values' precision.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

import qlora_kernels as qk
from qlora.doctor.facts import Fact
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError


def measure(subject: Subject) -> list[Fact]:
    """unchanged_parameters, over all that was trained; by layer."""
    if not subject.initial:
        began = subject.settings.from_adapter
        raise InputError(f"{began} should hold the adapter that training began with, does not")
    now = {n: p.detach() for n, p in qk.nn.adapter_parameters(subject.model).items()}
    pairs = {name: (start, now[name]) for name, start in subject.initial.items()}
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, pair in pairs.items():
        layers.setdefault(name.rpartition(".")[0], []).append(pair)
    return [
        Fact(
            "unchanged_parameters",
            share_equal(list(pairs.values())),
            detail=_detail(pairs),
            by_layer={layer: share_equal(of_layer) for layer, of_layer in layers.items()},
        )
    ]


def share_equal(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Of the values in pairs of tensors of one shape, the share that is the same in both."""
    equal = sum(int((start == now).sum()) for start, now in pairs)
    return equal / sum(now.numel() for _, now in pairs)


def _detail(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    still = [name for name, (start, now) in pairs.items() if torch.equal(start, now)]
    told = f"{len(still)} of {len(pairs)} trained tensors equal their start"
    factors = [name for name in pairs if name.endswith(".lora_b")]
    zero = sum(not pairs[name][1].any() for name in factors)
    if still:
        told += f", as {still[0]}"
    return f"{told}; B is zero in {zero} of {len(factors)} layers"
