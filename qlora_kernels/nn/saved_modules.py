"""Modules trained whole beside the adapters: a norm, an embedding, the head (peft's
modules_to_save)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.nn.qlora_embedding import QLoRAEmbedding
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.token_rows import TokenRows


def modules_to_save(model: nn.Module, ends: Sequence[str]) -> dict[str, nn.Module]:
    """Name -> module that holds parameters, of all that the ends of names choose and are in them.

    As in peft an end need not begin at a dot: "norm" is every norm. Raises InputError for an end
    that no module has, and for a quantized layer, whose codes cannot be trained.
    """
    for end in ends:
        if not any(name.endswith(end) for name, _ in model.named_modules() if name):
            raise InputError(
                f"prepare_model: modules_to_save should match a module, {end!r} matches none"
            )
    chosen = {n: m for n, m in model.named_modules() if m._parameters and _is_within(n, ends)}
    for name, module in chosen.items():
        if isinstance(module, QLoRALinear):
            raise InputError(
                f"prepare_model: modules_to_save should be dense, {name} is quantized already"
            )
    return chosen


def check_own_parameters(model: nn.Module, modules: Mapping[str, nn.Module], untie: bool) -> bool:
    """Whether a parameter of theirs has other names too; InputError if it may not be untied."""
    names = defaultdict(list)  # of one parameter, that of an embedding and of its head perhaps
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    own = {f"{name}.{part}": p for name, m in modules.items() for part, p in m._parameters.items()}
    shared = [name for name, p in own.items() if len(names[id(p)]) > 1]
    if shared and not untie:
        others = ", ".join(n for n in names[id(own[shared[0]])] if n != shared[0])
        raise InputError(
            f"prepare_model: {shared[0]} should have its own memory to be trained, shares {others} "
            "(untie=True gives it a copy)"
        )
    return bool(shared)


def train_modules(modules: Mapping[str, nn.Module]) -> None:
    """Train copies of all their parameters, in their own dtype: the modules compute in it."""
    for module in modules.values():
        for part, parameter in module._parameters.items():
            if parameter is not None:
                setattr(module, part, nn.Parameter(parameter.detach().clone()))


def saved_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module that is trained whole; one of which only the bias is trained is not."""
    adapted = (QLoRALinear, QLoRAEmbedding, TokenRows)
    return {
        name: module
        for name, module in model.named_modules()
        if not isinstance(module, adapted)
        and any(
            p is not None and p.requires_grad for n, p in module._parameters.items() if n != "bias"
        )
    }


def saved_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of every module that is trained whole."""
    return {
        f"{name}.{part}": parameter
        for name, module in saved_modules(model).items()
        for part, parameter in module.named_parameters(recurse=False)
    }


def check_saved(who: str, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors for modules that are not trained whole, and to leave one that is."""
    trained = saved_parameters(model)
    for name, tensor in tensors.items():
        if name not in trained:
            raise InputError(
                f"{who}: {name} should be in a module that is trained whole "
                "(QLoRAConfig.modules_to_save), is not"
            )
        if tensor.shape != trained[name].shape:
            wanted = list(trained[name].shape)
            raise InputError(f"{who}: {name} should be {wanted}, was {list(tensor.shape)}")
    if left := [name for name in trained if name not in tensors]:
        raise InputError(f"{who}: should hold {left[0]}, which is trained, does not")


def set_saved(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy into the parameters that are trained already."""
    trained = saved_parameters(model)
    for name, tensor in tensors.items():
        trained[name].data.copy_(tensor)


def _is_within(name: str, ends: Sequence[str]) -> bool:
    """Whether the module, or one that holds it, has one of the ends."""
    parts = name.split(".")
    holders = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(holder.endswith(end) for holder in holders for end in ends)
