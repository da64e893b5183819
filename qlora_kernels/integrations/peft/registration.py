"""What peft learns about our layers when this is imported: four of its methods, over ours only.

LoraModel._create_new_module          makes a QuantizedLoraLinear of a QLoRALinear
LoraModel.add_weighted_adapter        gives one adapter of weight 1 back as it was (peft #3761)
PeftModel.get_nb_trainable_parameters counts weights, not bytes of codes
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraModel

from qlora_kernels.checks import InputError
from qlora_kernels.integrations.peft.layer import QuantizedLoraLinear
from qlora_kernels.nn import QLoRALinear, quantized_layers


def teach_peft() -> None:
    """Wrap the methods; each calls what stood there for models that are not ours."""
    create = LoraModel._create_new_module
    LoraModel._create_new_module = staticmethod(_creating(create))  # type: ignore[method-assign]
    add = LoraModel.add_weighted_adapter
    LoraModel.add_weighted_adapter = _adding(add)  # type: ignore[method-assign]
    count = PeftModel.get_nb_trainable_parameters
    PeftModel.get_nb_trainable_parameters = _counting(count)  # type: ignore[method-assign]


def _creating(create: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(create)
    def wrapped(lora_config: Any, adapter_name: str, target: Any, **options: Any) -> Any:
        custom = tuple(lora_config._custom_modules or ())
        if isinstance(target, QLoRALinear) and not isinstance(target, custom):
            return QuantizedLoraLinear(target, adapter_name, config=lora_config, **options)
        return create(lora_config, adapter_name, target, **options)

    return wrapped


def _adding(add: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(add)
    def wrapped(
        self: Any,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        *rest: Any,
        **named: Any,
    ) -> None:
        layers = [m for m in self.modules() if isinstance(m, QuantizedLoraLinear)]
        if not layers or adapter_name in self.peft_config:
            add(self, adapters, weights, adapter_name, *rest, **named)
            return
        _check_combinable(self, adapters)
        add(self, adapters, weights, adapter_name, *rest, **named)
        self.peft_config[adapter_name].use_rslora = False
        for layer in layers:
            if adapter_name in layer.lora_A:
                _finish_combined(layer, dict(zip(adapters, weights, strict=True)), adapter_name)

    return wrapped


def _check_combinable(model: Any, adapters: list[str]) -> None:
    configs = {name: model.peft_config[name] for name in adapters if name in model.peft_config}
    if dora := [name for name, config in configs.items() if config.use_dora]:
        raise InputError(
            f"add_weighted_adapter: adapters should be LoRA, {dora[0]} is DoRA, whose factors do "
            "not add up (qlora merge combines what adapters do)"
        )
    if len({config.lora_bias for config in configs.values()}) > 1:
        raise InputError("add_weighted_adapter: adapters should agree on lora_bias, do not")


def _finish_combined(layer: QuantizedLoraLinear, weights: dict[str, float], name: str) -> None:
    """peft puts every scale into the factors, so the result's own is 1; and it forgets biases."""
    layer.use_rslora[name], layer.scaling[name] = False, 1.0
    if layer.lora_bias[name]:
        found = {n: w for n, w in weights.items() if n in layer.lora_A}
        biases = [w * layer.scaling[n] * layer.lora_B[n].bias.data for n, w in found.items()]
        layer.lora_B[name].bias.data.copy_(sum(biases))


def _counting(count: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(count)
    def wrapped(self: Any) -> tuple[int, int]:
        trained, every = count(self)
        layers = quantized_layers(self).values()
        packed = sum(m.in_features * m.out_features - m.weight.numel() for m in layers)
        return trained, every + packed

    return wrapped
