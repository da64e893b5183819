"""`get_peft_model`: peft's own, over a base that is quantized first where that is asked for."""

from typing import Any

import peft
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer

from qlora_kernels.checks import InputError
from qlora_kernels.integrations.transformers.config import NF4Config
from qlora_kernels.integrations.transformers.skeleton import linear_layers
from qlora_kernels.nn import QLoRALinear, quantized_layers


def get_peft_model(
    model: nn.Module,
    peft_config: peft.LoraConfig,
    adapter_name: str = "default",
    *,
    quantize: NF4Config | None = None,
    **options: Any,
) -> peft.PeftModel:
    """`peft.get_peft_model` over quantized layers: LoRA, rsLoRA or DoRA, one op call per layer.

    model: one whose linear layers are quantized (`NF4Config`, `load_bitsandbytes`, or
    `prepare_model`, whose fresh adapters make room), or a dense one to quantize in place as
    `quantize` says: all but the head and `modules_to_save`. options: peft's own.

    Raises InputError for a config that is not LoRA, a model without quantized layers, and layers
    whose own adapter is trained.
    """
    if not isinstance(peft_config, peft.LoraConfig):
        was = type(peft_config).__name__
        raise InputError(f"get_peft_model: peft_config should be a LoraConfig, was {was}")
    if quantize is not None:
        _quantize(model, quantize, list(peft_config.modules_to_save or ()))
    layers = quantized_layers(model)
    saved = tuple(peft_config.modules_to_save or ())
    if trained := [name for name in layers if name.endswith(saved)]:
        raise InputError(
            f"get_peft_model: modules_to_save should be dense, {trained[0]} is quantized"
        )
    if not layers:
        raise InputError(
            "get_peft_model: model should hold quantized layers (quantize=NF4Config() makes "
            "them), holds none"
        )
    made: peft.PeftModel = peft.get_peft_model(model, peft_config, adapter_name, **options)
    return made


def _quantize(model: nn.Module, config: NF4Config, saved: list[str]) -> None:
    if quantized_layers(model):
        raise InputError("get_peft_model: quantize should be None for a quantized model, was given")
    skipped = [*config.skip_modules, *saved]
    if isinstance(model, PreTrainedModel):
        skipped = HfQuantizer.get_modules_to_not_convert(model, skipped, add_default_skips=True)
    made = {}
    for name, linear in linear_layers(model, skipped).items():
        if config.spec_of(name):
            made[id(linear)] = QLoRALinear.from_linear(linear, config.layers, name, adapt=False)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in made:
            model.set_submodule(name, made[id(module)])
