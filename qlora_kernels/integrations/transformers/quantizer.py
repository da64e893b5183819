"""The plug-in behind `from_pretrained(path, quantization_config=NF4Config())`.

Weights are quantized as they are read, one tensor at a time; `save_pretrained` writes codes and
scales under the names of `QuantizedTensor.state_dict`, which `qlora quantize` writes too.
"""

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer

from qlora_kernels.checks import InputError
from qlora_kernels.formats import Base, QuantizedTensor
from qlora_kernels.formats.state_dict import QUANT_METHOD, dtype_named
from qlora_kernels.integrations.transformers.config import NF4Config
from qlora_kernels.integrations.transformers.conversions import Quantize, ReadCodes
from qlora_kernels.integrations.transformers.skeleton import (
    SCALES,
    linear_layers,
    put_dense,
    put_quantized,
)
from qlora_kernels.nn import QLoRALinear, quantized_layers

__all__ = ["NF4Config", "NF4Quantizer"]


@register_quantizer(QUANT_METHOD)
class NF4Quantizer(HfQuantizer):
    """transformers' steps of loading and saving, over `QLoRALinear` without adapters."""

    quantization_config: NF4Config
    is_trainable = True  # with adapters on top: peft's, on qk.integrations.peft
    is_qat_trainable = False  # without peft's; `prepare_model` sets it, since it brings its own
    serialized_names = {  # noqa: RUF012 (transformers' own shape)
        "weight": [f"weight.{part}" for part in ("codes", *SCALES, "spec")]
    }

    def __init__(self, quantization_config: NF4Config, **options: Any) -> None:
        """options: transformers' own, `pre_quantized` among them."""
        super().__init__(quantization_config, **options)
        self.transposed: set[str] = set()  # names of layers that are Conv1D when dense
        self.filled: set[str] = set()  # names of layers that have their codes
        self.refusals: list[str] = []  # why others have none

    def is_serializable(self) -> bool:
        """Every format has its files."""
        return True

    def validate_environment(self, *_: Any, device_map: object = None, **__: Any) -> None:
        """Refuse what was never tried: layers on the disk."""
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise InputError("from_pretrained: device_map should keep layers in memory, was disk")

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        config = self.quantization_config
        in_float32 = list(model._keep_in_fp32_modules or ())
        skipped = self.get_modules_to_not_convert(
            model, config.skip_modules, in_float32, add_default_skips=True
        )
        for name, linear in linear_layers(model, skipped).items():
            if spec := config.spec_of(name):
                put_quantized(model, name, linear, spec)
                if isinstance(linear, Conv1D):
                    self.transposed.add(name)
        if not quantized_layers(model):
            raise InputError("from_pretrained: model should hold linear layers, holds none")

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **__: Any) -> bool:
        """Whether the parameter holds codes."""
        name, _, leaf = param_name.rpartition(".")
        return leaf == "weight" and isinstance(model.get_submodule(name), QLoRALinear)

    def get_quantize_ops(self) -> Quantize:
        """What turns a dense weight into codes."""
        return Quantize(self)

    def get_load_operations(self) -> dict[str, Any]:
        """What reads `serialized_names`."""
        return {"deserialize": ReadCodes}

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> Any:
        for refusal in self.refusals:
            raise InputError(f"from_pretrained: {refusal}")
        for name, layer in quantized_layers(model).items():
            if name not in self.filled:
                raise InputError(f"from_pretrained: {name}.weight should be there, is missing")
            if layer.bias is not None:
                layer.bias.requires_grad_(False)
        if find_spec("peft"):  # whose own layer would not know how to merge into codes
            import_module("qlora_kernels.integrations.peft")
        # What was put together while loading is saved as the model has it: codes cannot be split.
        made: Any = model._weight_conversions
        kept: Any = [one for one in made if not isinstance(one, WeightConverter)]
        model._weight_conversions = kept
        return model

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """What `save_pretrained` writes: codes and scales by the names of our files."""
        state = model.state_dict()
        for name, layer in quantized_layers(model).items():
            if layer.lora_a is not None:
                raise InputError(
                    f"save_pretrained: {name} should be without adapter (qk.save_adapter), has one"
                )
            self._check_format(name, layer.base)
            if isinstance(q := layer.base, QuantizedTensor):
                for part in ("weight", *SCALES, "_extra_state"):
                    state.pop(f"{name}.{part}", None)
                state |= q.state_dict(f"{name}.weight")
        return state, {}

    def _check_format(self, name: str, base: Base) -> None:
        """Refuse to write what config.json does not say: such a folder could not be read."""
        spec = self.quantization_config.spec_of(name)
        wanted = None if spec is None else replace(spec, scale_search=False)
        was = base.spec if isinstance(base, QuantizedTensor) else None
        if was != wanted:
            raise InputError(
                f"save_pretrained: {name} should be in {wanted or 'no format'}, as the config says,"
                f" was in {was or 'no format'} (model.dequantize() makes plain layers of all)"
            )

    def _dequantize(self, model: PreTrainedModel, dtype: Any = None) -> PreTrainedModel:
        dtype = dtype_named(dtype) if isinstance(dtype, str) else dtype
        for name in quantized_layers(model):
            put_dense(model, name, dtype, name in self.transposed)
        return model


register_quantization_config(QUANT_METHOD)(NF4Config)
