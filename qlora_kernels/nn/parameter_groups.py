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
    multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """`lora_plus_ratio * lr` for each adapter's B, `lr` for all else: groups for an optimizer.

    parameters: name -> parameter, as `adapter_parameters(model)` gives them. lora_plus_ratio: 1 is
    plain LoRA; LoRA+ (arXiv 2402.12354) takes 16, with a smaller lr, since wide layers learn too
    little where A and B have one rate. weight_decay pulls the factors back to the base; vectors
    (biases, norms, magnitudes) have none, nor have modules trained whole beside factors, which do
    not start from zero. multipliers: part of a name -> what its rate is multiplied by, as in
    {"layers.0": 0.5, "down_proj": 2}; the first that is in a name counts.

    Each group has `name`, `params`, `lr` and `weight_decay`; empty ones are left out. Raises
    InputError for no parameters, for a multiplier of none of them, and for numbers below 0 or not
    finite.
    """
    multipliers = multipliers or {}
    numbers = {"lr": lr, "lora_plus_ratio": lora_plus_ratio, "weight_decay": weight_decay}
    numbers |= {f"the multiplier of {part}": factor for part, factor in multipliers.items()}
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"parameter_groups: {name} should be 0 or more, was {value}")
    if not parameters:
        raise InputError("parameter_groups: parameters should be some, were none")
    for part in multipliers:
        if not any(_has(name, part) for name in parameters):
            raise InputError(f"parameter_groups: {part!r} should be part of a name, is of none")
    rules = {
        "weights": (lr, weight_decay),
        "lora_b": (lr * lora_plus_ratio, weight_decay),
        "undecayed": (lr, 0.0),
    }
    has_factors = any("lora_" in name for name in parameters)
    groups: dict[str, dict[str, Any]] = {}
    for kind, (rate, decay) in rules.items():
        for name, parameter in parameters.items():
            if _kind(name, parameter, has_factors) == kind:
                factor = next((f for part, f in multipliers.items() if _has(name, part)), 1.0)
                label = kind if factor == 1 else f"{kind} x{factor:g}"
                group = {"name": label, "params": [], "lr": rate * factor, "weight_decay": decay}
                groups.setdefault(label, group)["params"].append(parameter)
    return list(groups.values())


def _kind(name: str, parameter: nn.Parameter, has_factors: bool) -> str:
    parts = name.split(".")
    is_factor = any(p.startswith("lora_") and "magnitude" not in p for p in parts)
    if "lora_b" in parts or "lora_B" in parts:  # ours, and peft's
        return "lora_b"
    whole = has_factors and not is_factor
    return "undecayed" if parameter.ndim < 2 or whole else "weights"


def _has(name: str, part: str) -> bool:
    """Whether `part` stands in a name, between its dots."""
    return f".{part}." in f".{name}."
