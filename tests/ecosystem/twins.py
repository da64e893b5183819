"""Our QLoRA model over NF4 and stock peft over a float copy of the same base, trained alike."""

import copy
from collections.abc import Callable

import peft
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.nn import QLoRAConfig, adapter_parameters, quantized_layers

CONFIG = QLoRAConfig(rank=4, alpha=8)
STEPS, BATCH, RATE = 30, 2, 2e-3
PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}


def twins(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(ours, peft's): one base, since peft's holds what our codes mean, and one start."""
    torch.manual_seed(0)
    ours = qk.prepare_model(copy.deepcopy(model), CONFIG)
    dense = copy.deepcopy(model)
    for name, layer in quantized_layers(ours).items():
        dense.get_submodule(name).weight.data.copy_(layer.dequantize())
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    theirs = peft.get_peft_model(dense, settings)
    for name, layer in quantized_layers(ours).items():
        for part, word in PARTS.items():
            factor = getattr(theirs.base_model.model.get_submodule(name), word)["default"].weight
            factor.data.copy_(getattr(layer, part))
    return ours.train(), theirs.train()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Ours for ours, torch's for peft's."""
    if quantized_layers(model):
        return qk.optim.AdamW(adapter_parameters(model).values(), lr=RATE)
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)


def assert_alike(train: Callable[[nn.Module], list[float]], model: nn.Module) -> None:
    """The losses of 30 steps differ by less than 1e-3, and fall by much more."""
    ours, theirs = (torch.tensor(train(twin)) for twin in twins(model))
    assert len(ours) == STEPS
    assert (ours - theirs).abs().max() < 1e-3
    assert theirs[:5].mean() - theirs[-5:].mean() > 0.1, "it learns something"
