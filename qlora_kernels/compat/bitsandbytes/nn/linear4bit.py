"""Linear layers with a packed 4-bit weight; state, no maths."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qlora_kernels.compat.bitsandbytes.functional import QuantState
from qlora_kernels.compat.bitsandbytes.nn.params4bit import Params4bit, recover_quant_state
from qlora_kernels.compat.bitsandbytes.products import matmul_4bit
from qlora_kernels.errors import InputError

_LOGGER = logging.getLogger(__name__)


class Linear4bit(nn.Linear):
    """`y = x W^T + bias`, W in NF4 or FP4, differentiable in x and bias in every mode.

    Load or set a float weight, then move the layer to its device: that quantizes (`Params4bit`).
    Or load a state dict that bitsandbytes or this class wrote, into a fresh layer or another.
    """

    weight: Params4bit

    def __init__(
        self,
        input_features: int,
        output_features: int,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        compress_statistics: bool = True,
        quant_type: str = "fp4",
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
    ) -> None:
        """compute_dtype: what x is cast to and back from; by default that of the first x, but for
        float16, which stays as it is.
        """
        super().__init__(input_features, output_features, bias, device)
        self.weight = Params4bit(
            self.weight.data,
            compress_statistics=compress_statistics,
            quant_type=quant_type,
            quant_storage=quant_storage,
            module=self,
        )
        self.compute_dtype = compute_dtype
        self.compute_type_is_set = compute_dtype is not None
        self.quant_state: QuantState | None = None
        self.quant_storage = quant_storage

    def set_compute_type(self, x: torch.Tensor) -> None:
        """Settle on the dtype of the first x."""
        if x.dtype in (torch.float32, torch.bfloat16):
            self.compute_dtype = x.dtype
        elif x.dtype == torch.float16 and self.compute_dtype in (None, torch.float32):
            use = "inference" if x.numel() == x.shape[-1] else "inference or training speed"
            _LOGGER.warning(
                "Input type into Linear4bit is torch.float16, but compute_dtype=torch.float32 (the "
                "default): float16 overflows early. This may lead to slow %s.",
                use,
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out] of x's dtype.

        A bias of another dtype is cast to the one that is computed in, and stays so.
        """
        state = recover_quant_state(self)
        if not self.compute_type_is_set:
            self.set_compute_type(x)
            self.compute_type_is_set = True
        dtype = x.dtype
        if self.compute_dtype is not None:
            x = x.to(self.compute_dtype)
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        return matmul_4bit(x, self.weight, state, bias=self.bias).to(dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Move and cast, but for packed codes, which only move."""
        packed = id(self.weight) if getattr(self.weight, "bnb_quantized", False) else None

        def keeping_bits(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            kept = id(tensor) == packed and moved.dtype != tensor.dtype
            return tensor.to(moved.device) if kept else moved

        return super()._apply(keeping_bits, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Weight and bias, then the parts of the state behind "weight."."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if getattr(self.weight, "quant_state", None) is not None:
            for name, part in recover_quant_state(self).as_dict(packed=True).items():
                destination[f"{prefix}weight.{name}"] = part if keep_vars else part.detach()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        """Packed codes with their state, into whatever the layer holds; or a float weight."""
        _, missing, _, errors = rest
        key = f"{prefix}weight"
        parts = {name for name in state_dict if name.startswith(f"{key}.")}
        weight = state_dict.get(key)
        if weight is not None and parts:
            stats = {name.removeprefix(f"{key}."): state_dict[name] for name in parts}
            copies = not local_metadata.get("assign_to_params_buffers", False)
            try:
                self._take(weight, stats, copies)
            except InputError as error:
                errors.append(f"{key}: {error}")
            state_dict = {name: t for name, t in state_dict.items() if name not in {key, *parts}}
        elif weight is not None and self.weight.shape == weight.shape != self._dense_shape:
            errors.append(f"{key}: packed codes should come with their quant_state, came alone")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if weight is not None and key in missing:
            missing.remove(key)

    @property
    def _dense_shape(self) -> torch.Size:
        return torch.Size((self.out_features, self.in_features))

    def _take(self, codes: torch.Tensor, stats: dict[str, Any], copies: bool) -> None:
        """Replace the weight by a packed one."""
        device = codes.device if self.weight.is_meta or not copies else self.weight.device
        if copies:
            codes, stats = codes.clone(), {name: part.clone() for name, part in stats.items()}
        weight = Params4bit.from_prequantized(codes, stats, device=device)
        state = weight.quant_state
        if state is None or state.shape != self._dense_shape:
            shape = None if state is None or state.shape is None else list(state.shape)
            raise InputError(f"Linear4bit: shape should be {list(self._dense_shape)}, was {shape}")
        weight.module = self
        self.weight, self.quant_state = weight, state


class LinearNF4(Linear4bit):
    """`Linear4bit` in NF4."""

    def __init__(
        self,
        input_features: int,
        output_features: int,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        compress_statistics: bool = True,
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
    ) -> None:
        """As `Linear4bit` without quant_type."""
        super().__init__(
            input_features,
            output_features,
            bias,
            compute_dtype,
            compress_statistics,
            "nf4",
            quant_storage,
            device,
        )


class LinearFP4(Linear4bit):
    """`Linear4bit` in FP4."""

    def __init__(
        self,
        input_features: int,
        output_features: int,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        compress_statistics: bool = True,
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
    ) -> None:
        """As `Linear4bit` without quant_type."""
        super().__init__(
            input_features,
            output_features,
            bias,
            compute_dtype,
            compress_statistics,
            "fp4",
            quant_storage,
            device,
        )
