"""What happens to a tensor between a checkpoint and a quantized layer, one weight at a time."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps

from qlora_kernels.checks import InputError
from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.integrations.transformers.skeleton import SCALES
from qlora_kernels.nn import QLoRALinear
from qlora_kernels.ops import quantize

if TYPE_CHECKING:
    from qlora_kernels.integrations.transformers.quantizer import NF4Quantizer

Collected = Mapping[str, Any]  # tensors, or lists of one


class IntoLayer(ConversionOps):
    """Fills one layer, or notes down why not: transformers logs what is raised here and goes on."""

    def __init__(self, quantizer: "NF4Quantizer") -> None:
        self.hf_quantizer = quantizer  # transformers leaves the dtypes alone where this is set

    def __deepcopy__(self, _: Any) -> "IntoLayer":
        return self  # one per tensor, but all take notes in one place

    def parts(
        self, full_name: str, model: nn.Module, make: Callable[[], QuantizedTensor]
    ) -> dict[str, torch.Tensor]:
        """The layer's tensors under their full names; none if it refuses them."""
        name = full_name.removesuffix(".weight")
        layer = model.get_submodule(name)
        assert isinstance(layer, QLoRALinear), name
        try:
            q = make()
            _check_fits(layer, q)
        except InputError as error:
            self.hf_quantizer.refusals.append(f"{full_name}: {error}")
            return {}
        self.hf_quantizer.filled.add(name)
        named = {"weight": q.codes} | {part: getattr(q, part) for part in SCALES}
        named["_extra_state"] = layer.get_extra_state()
        return {f"{name}.{part}": tensor for part, tensor in named.items() if tensor is not None}


class Quantize(IntoLayer):
    """A dense weight becomes codes and scales."""

    def convert(self, input_dict: Collected, *_: Any, model: Any = None, **__: Any) -> Any:
        """{full name of a weight: its values} -> full names of the parts of its layer."""
        [(full_name, weight)] = single(input_dict).items()
        name = full_name.removesuffix(".weight")
        spec = self.hf_quantizer.quantization_config.spec_of(name)
        assert spec is not None, name
        if name in self.hf_quantizer.transposed:
            weight = weight.T.contiguous()
        return self.parts(full_name, model, lambda: quantize(weight, **asdict(spec)))


class ReadCodes(IntoLayer):
    """Tensors of a saved weight go into their layer as they are, bit for bit."""

    def convert(
        self,
        input_dict: Collected,
        *_: Any,
        model: Any = None,
        full_layer_name: str = "",
        **__: Any,
    ) -> Any:
        """{end of a name, `weight.codes`, ...: tensor} -> full names of the layer's parts."""
        state = single(input_dict)
        return self.parts(full_layer_name, model, lambda: QuantizedTensor.from_state_dict(state))


def single(collected: Collected) -> dict[str, torch.Tensor]:
    """Without the lists of one in which transformers collects tensors."""
    return {name: t[0] if isinstance(t, list) else t for name, t in collected.items()}


def _check_fits(layer: QLoRALinear, q: QuantizedTensor) -> None:
    """Refuse a tensor that the layer was not made for."""
    base = layer.base
    assert isinstance(base, QuantizedTensor)
    if list(q.shape) != list(base.shape) or q.spec != base.spec:
        wanted, was = (f"{list(t.shape)} in {t.spec}" for t in (base, q))
        raise InputError(f"should be {wanted}, as config.json says, was {was}")
