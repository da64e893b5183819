"""One module in the place of another, under every name that it has."""

from collections.abc import Mapping

from torch import nn


def replace_modules(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    """Put `made[module]` wherever the model holds `module`, since modules can be shared."""
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):  # named_children drops duplicates
            if child is not None and child in made:
                setattr(parent, attribute, made[child])
