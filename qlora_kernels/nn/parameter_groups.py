"""What an optimizer gets: the trained parameters in groups, each with its rate and decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from qlora_kernels.checks import InputError


def parameter_groups(
    parameters: Mapping[str, nn.Parameter],
    lr: float,
    lora_plus_ratio: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """`lora_plus_ratio * lr` for each adapter's B, `lr` for all else: groups for an optimizer.

    parameters: name -> parameter, as `adapter_parameters(model)` gives them. lora_plus_ratio: 1 is
    plain LoRA; LoRA+ (arXiv 2402.12354) takes 16, with a smaller lr, since wide layers learn too
    little where A and B have one rate. weight_decay pulls the factors back to the base; magnitudes,
    biases and modules trained whole beside factors, which do not start from zero, have none.

    Each group has `name`, `params`, `lr` and `weight_decay`; empty ones are left out. Raises
    InputError for no parameters and for numbers below 0 or not finite.
    """
    numbers = {"lr": lr, "lora_plus_ratio": lora_plus_ratio, "weight_decay": weight_decay}
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"parameter_groups: {name} should be 0 or more, was {value}")
    if not parameters:
        raise InputError("parameter_groups: parameters should be some, were none")
    rules = {
        "weights": (lr, weight_decay),
        "lora_b": (lr * lora_plus_ratio, weight_decay),
        "undecayed": (lr, 0.0),
    }
    members = _members(parameters)
    groups = []
    for group, (rate, decay) in rules.items():
        if chosen := members[group]:
            groups.append({"name": group, "params": chosen, "lr": rate, "weight_decay": decay})
    return groups


def _members(parameters: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    members: dict[str, list[nn.Parameter]] = {"weights": [], "lora_b": [], "undecayed": []}
    has_factors = any("lora_" in name for name in parameters)
    for name, parameter in parameters.items():
        parts = name.split(".")
        is_factor = any(p.startswith("lora_") and "magnitude" not in p for p in parts)
        if "lora_b" in parts or "lora_B" in parts:  # ours, and peft's
            members["lora_b"].append(parameter)
        elif parts[-1] == "bias" or (has_factors and not is_factor):
            members["undecayed"].append(parameter)
        else:
            members["weights"].append(parameter)
    return members
