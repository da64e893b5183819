"""The forecast of a run: its settings and its model's config.json, as the planner has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from qlora.plan.config_file import architecture_of
from qlora.plan.memory import Forecast
from qlora.plan.settings import Method, PlanSettings
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError

# What the sum has no term for, with the value at which it has no effect.
UNKNOWN = {
    "format_pattern": None,
    "rank_pattern": None,
    "trainable_tokens": (),
    "modules_to_save": (),
    "untie": False,
    "bias": "none",
    "exclude": (),
}


def forecast_of(
    settings: TrainSettings,
    config: Mapping[str, Any],
    *,
    dtype: str,
    device: Literal["gpu", "cpu"],
) -> Forecast:
    """What `settings` will take on a model of this config.json, loaded in `dtype`.

    Raises InputError where the planner does not know the model's family, or has no term for a
    setting.
    """
    for name, default in UNKNOWN.items():
        if (value := getattr(settings, name)) != default:
            raise InputError(f"plan: {name} should be {default}, to be predicted, was {value}")
    same = {
        name: getattr(settings, name)
        for name in (
            *("format", "block_size", "double_quant", "rank", "targets", "sequence_length"),
            *("batch_size", "packing", "optimizer", "optimizer_memory", "gradient_checkpointing"),
        )
    }
    model = architecture_of(config, Path(settings.model) / "config.json")
    return Forecast(model, PlanSettings(dtype=dtype, device=device, **same), _method(settings))  # type: ignore[arg-type]


def _method(settings: TrainSettings) -> Method:
    if settings.method == "full":
        return "full"
    if settings.method != "lora":
        raise InputError(
            f"plan: method should be lora or full, to be predicted, was {settings.method}"
        )
    if settings.dora:
        return "dora"
    return "lora" if settings.format == "none" else "qlora"
