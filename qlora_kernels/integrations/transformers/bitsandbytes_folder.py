"""Model folders that bitsandbytes wrote through transformers, read without bitsandbytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qlora_kernels.checks import InputError
from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.formats.state_dict import QUANT_METHOD, fact, read_json_bytes
from qlora_kernels.integrations.transformers.config import NF4Config
from qlora_kernels.integrations.transformers.conversions import Collected, IntoLayer, single
from qlora_kernels.integrations.transformers.quantizer import NF4Quantizer
from qlora_kernels.integrations.transformers.skeleton import linear_layers, put_quantized

_METHOD = f"{QUANT_METHOD}_reads_bitsandbytes"
_STATE = ".weight.quant_state.bitsandbytes__"
_FORMATS = ("nf4", "fp4")
_WHERE = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "trust_remote_code")


def load_bitsandbytes(
    path: str | Path, model_class: Any = AutoModelForCausalLM, **options: Any
) -> PreTrainedModel:
    """`model_class.from_pretrained(path, **options)` over `QLoRALinear`, codes and scales bit for
    bit.

    path: a folder (or a repository's name) whose linear layers bitsandbytes stored in 4 bits, nf4
    or fp4, with or without double quantization. `save_pretrained` of the result writes our files.
    Raises InputError for other folders, 8 bits and pickles among them.
    """
    where = {name: options[name] for name in _WHERE if name in options}
    config = AutoConfig.from_pretrained(path, **where)
    stored = getattr(config, "quantization_config", None) or {}
    was = [stored.get("quant_method"), stored.get("load_in_4bit")]
    if was != ["bitsandbytes", True]:
        raise InputError(
            f"load_bitsandbytes: {path} should be in 4 bits of bitsandbytes, has quant_method "
            f"{was[0]} and load_in_4bit {was[1]}"
        )
    config.quantization_config = {"quant_method": _METHOD}
    model: PreTrainedModel = model_class.from_pretrained(path, config=config, **options)
    return model


@register_quantization_config(_METHOD)
@dataclass
class _Unread(QuantizationConfigMixin):
    """What is known of the layers before the folder's tensors are."""

    quant_method: str = _METHOD  # type: ignore[assignment] # an enum of transformers' own


@register_quantizer(_METHOD)
class BitsandbytesReader(NF4Quantizer):
    """Loads bitsandbytes' names; all the rest is that of our own folders."""

    serialized_names = {  # noqa: RUF012 (transformers' own shape)
        "weight": [
            "weight",
            *(f"weight.{part}" for part in ("absmax", "quant_map")),
            *(f"weight.nested_{part}" for part in ("absmax", "quant_map")),
            *(f"weight.quant_state.bitsandbytes__{format}" for format in _FORMATS),
        ]
    }

    def get_load_operations(self) -> dict[str, Any]:
        """What reads `serialized_names`."""
        return {"deserialize": _Read}

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] = (), **_: Any
    ) -> None:
        specs = {_in_model(model, name): spec for name, spec in _specs(checkpoint_files).items()}
        skipped = self.get_modules_to_not_convert(model)
        left = linear_layers(model, skipped).keys() - specs.keys()
        for name, spec in specs.items():
            linear = model.get_submodule(name)
            put_quantized(model, name, linear, spec)
            if isinstance(linear, Conv1D):
                self.transposed.add(name)
        model.__dict__["quantization_method"] = QUANT_METHOD
        self.quantization_config = _config_of(specs, sorted(left))


class _Read(IntoLayer):
    """A weight with its states becomes codes and scales, a dense one gets the model's dtype."""

    def convert(
        self,
        input_dict: Collected,
        *_: Any,
        model: Any = None,
        full_layer_name: str = "",
        **__: Any,
    ) -> Any:
        """{end of a name: tensor} -> full names of what the layer holds."""
        state = single(input_dict)
        if len(state) == 1:
            [weight] = state.values()
            wanted = model.get_parameter_or_buffer(full_layer_name).dtype
            return {full_layer_name: weight.to(wanted)}

        def read() -> QuantizedTensor:
            q = QuantizedTensor.from_bitsandbytes(state)
            model.get_submodule(full_layer_name.removesuffix(".weight")).weight_dtype = q.dtype
            return q

        return self.parts(full_layer_name, model, read)


def _specs(files: Sequence[str]) -> dict[str, QuantSpec]:
    """Name in the files -> how the layer is stored."""
    specs: dict[str, QuantSpec] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise InputError(f"load_bitsandbytes: {file} should be safetensors, is not")
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                name, found, format = key.rpartition(_STATE)
                if found:
                    facts = read_json_bytes(tensors.get_tensor(key))
                    block_size = fact("load_bitsandbytes", facts, "blocksize", int)
                    specs[name] = QuantSpec(format, block_size, "nested_blocksize" in facts)
                    specs[name].check(f"load_bitsandbytes: {name}")
    if not specs:
        raise InputError("load_bitsandbytes: the folder should hold 4-bit weights, holds none")
    return specs


def _in_model(model: PreTrainedModel, name: str) -> str:
    """The linear layer of that name, with the base model's prefix or without."""
    prefix = f"{model.base_model_prefix}."
    modules = dict(model.named_modules())
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        if isinstance(modules.get(candidate), nn.Linear | Conv1D):
            return candidate
    raise InputError(f"load_bitsandbytes: {name} should be a linear layer of the model, is not")


def _config_of(specs: dict[str, QuantSpec], skipped: list[str]) -> NF4Config:
    """What our own folder of this model says; formats by name where they differ."""
    sizes = {(spec.block_size, spec.double_quant) for spec in specs.values()}
    if len(sizes) > 1:
        raise InputError(
            "load_bitsandbytes: block size and double quantization should be the same in all "
            f"layers, were {sorted(sizes)}"
        )
    [(block_size, double_quant)] = sizes
    formats = {name: spec.format for name, spec in specs.items()}
    first, *others = sorted(set(formats.values()))
    by_name = {name.replace(".", r"\."): f for name, f in formats.items() if f in others}
    return NF4Config(
        format={**by_name, "*": first} if others else first,
        block_size=block_size,
        double_quant=double_quant,
        skip_modules=skipped,
    )
