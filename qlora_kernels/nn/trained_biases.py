"""Biases that are trained beside the adapters, in place of the base's (peft's `bias`)."""

from collections.abc import Mapping

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.saved_modules import saved_modules


def train_biases(model: nn.Module, which: str) -> None:
    """Train the biases of adapted layers ("lora_only"), every bias ("all") or none ("none").

    Those of a QLoRALinear become float32, like its factors; those of other modules, which compute
    in their own dtype, keep it.
    """
    for name, module in _with_bias(model).items():
        adapted = isinstance(module, QLoRALinear) and module.lora_a is not None
        if which == "all" or (which == "lora_only" and adapted):
            _train(model, name)


def trained_biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """Module name -> bias that is trained, of every module of a prepared model."""
    biases = {name: module.get_parameter("bias") for name, module in _with_bias(model).items()}
    return {name: bias for name, bias in biases.items() if bias.requires_grad}


def bias_word(model: nn.Module) -> str:
    """peft's word for what the model trains: "none", "lora_only" or "all"."""
    modules = [model.get_submodule(name) for name in trained_biases(model)]
    if all(isinstance(m, QLoRALinear) and m.lora_a is not None for m in modules):
        return "lora_only" if modules else "none"
    return "all"


def check_biases(who: str, model: nn.Module, biases: Mapping[str, torch.Tensor]) -> None:
    """Refuse biases that the model has no place for, and to leave one that was trained before."""
    places = _with_bias(model)
    for name, bias in biases.items():
        if name not in places:
            raise InputError(f"{who}: {name} should be a module with a bias, is not")
        shape = list(places[name].get_parameter("bias").shape)
        if list(bias.shape) != shape:
            raise InputError(f"{who}: {name} should have bias {shape}, has {list(bias.shape)}")
    # The base's own bias is gone once it was trained, so there would be nothing to go back to.
    if left := [name for name in trained_biases(model) if name not in biases]:
        raise InputError(f"{who}: should hold the bias of {left[0]}, which is trained, holds none")


def set_biases(model: nn.Module, biases: Mapping[str, torch.Tensor]) -> None:
    """Train these biases from these values on; parameters trained already stay the same objects."""
    for name, bias in biases.items():
        _train(model, name).data.copy_(bias)


def _train(model: nn.Module, name: str) -> nn.Parameter:
    module = model.get_submodule(name)
    bias = module.get_parameter("bias")
    if not bias.requires_grad:
        if isinstance(module, QLoRALinear):  # whose op takes a bias of any dtype
            bias = nn.Parameter(bias.detach().float().clone())
            module.bias = bias
        bias.requires_grad_(True)
    return bias


def _with_bias(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module with a parameter called bias; not those that are trained whole."""
    whole = saved_modules(model)
    return {
        name: module
        for name, module in model.named_modules()
        if name not in whole and module._parameters.get("bias") is not None
    }
