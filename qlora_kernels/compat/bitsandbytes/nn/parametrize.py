"""Any parameter of a module in 4 bits, decoded where it is read."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from qlora_kernels.compat.bitsandbytes.functional import (
    QuantState,
    dequantize_4bit,
    quantize_4bit,
)


class Bnb4bitParametrization(nn.Module):
    """`module.weight` is `dequantize_4bit(packed, quant_state)`, without gradient."""

    def __init__(self, quant_state: QuantState) -> None:
        """quant_state: that of the packed parameter."""
        super().__init__()
        self.quant_state = quant_state

    @torch.no_grad()
    def forward(self, quantized_param: torch.Tensor) -> torch.Tensor:
        """The dense parameter, of its original shape and dtype."""
        return dequantize_4bit(quantized_param, self.quant_state)


def replace_parameter_4bit(
    module: nn.Module,
    param_name: str,
    compress_statistics: bool = False,
    quant_type: str = "nf4",
    blocksize: int | None = None,
) -> None:
    """Pack one parameter of any shape in place; reading it decodes it, a state dict holds codes.

    Within the module's forward it is decoded once. Raises AttributeError for a name that the module
    lacks, TypeError for one that is no parameter, ValueError as `quantize_4bit` does.
    """
    parameter = _parameter(module, param_name)
    codes, state = quantize_4bit(
        parameter.data,
        blocksize=blocksize,
        compress_statistics=compress_statistics,
        quant_type=quant_type,
    )
    setattr(module, param_name, nn.Parameter(codes, requires_grad=False))
    _register(module, param_name, state)


def replace_parameter_4bit_prequantized(
    module: nn.Module, param_name: str, qs_dict: Mapping[str, Any], device: torch.device | str
) -> None:
    """Read one parameter, which holds codes already, by the state that `as_dict` took apart."""
    _parameter(module, param_name)
    _register(module, param_name, QuantState.from_dict(qs_dict, device))


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    if not hasattr(module, name):
        raise AttributeError(f"Module does not have parameter '{name}'")
    parameter = getattr(module, name)
    if not isinstance(parameter, nn.Parameter):
        raise TypeError(f"Parameter '{name}' is not an instance of nn.Parameter")
    return parameter


def _register(module: nn.Module, name: str, state: QuantState) -> None:
    # Unsafe: it changes the dtype and the shape.
    decoding = Bnb4bitParametrization(state)
    parametrize.register_parametrization(module, name, decoding, unsafe=True)
    _register_parametrization_hooks(module, name)


def _register_parametrization_hooks(module: nn.Module, name: str) -> None:
    module.register_state_dict_post_hook(partial(_save_packed, name=name))
    module.register_forward_pre_hook(_enable_parametrization_cache)
    # Always: checkpointing leaves a forward by an exception, and may not leave the cache on.
    module.register_forward_hook(_disable_parametrization_cache, always_call=True)


def _enable_parametrization_cache(module: nn.Module, inputs: Any) -> None:
    parametrize._cache_enabled += 1


def _disable_parametrization_cache(module: nn.Module, inputs: Any, output: Any) -> None:
    parametrize._cache_enabled = max(0, parametrize._cache_enabled - 1)
    if not parametrize._cache_enabled:
        parametrize._cache = {}


def _save_packed(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *, name: str
) -> None:
    """The parameter's own key holds the codes; the parts of the state stand behind it."""
    packed = state_dict.pop(f"{prefix}parametrizations.{name}.original", None)
    if packed is not None:
        state_dict[f"{prefix}{name}"] = packed
        decoding = module.get_submodule(f"parametrizations.{name}")[0]  # type: ignore[index]
        for part, value in decoding.quant_state.as_dict(packed=True).items():
            state_dict[f"{prefix}{name}.{part}"] = value
