"""peft's LoRA layer over a `QLoRALinear`: its state and its rules, our op."""

from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.lora.layer import LoraVariant
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.formats import Adapter
from qlora_kernels.integrations.peft.magnitude import FusedDora
from qlora_kernels.integrations.peft.merging import Unmerged, merge, unmerge
from qlora_kernels.nn import MergeLoss, QLoRALinear
from qlora_kernels.nn.qlora_linear import autocast_dtype
from qlora_kernels.ops import qlora_linear

INITS = (True, False, "gaussian", "orthogonal", "eva")  # that leave the base as it is


class QuantizedLoraLinear(PeftLinear):
    """`y = x W^T + s (drop(x) A^T) B^T + bias`, or peft's DoRA, in one op call for one adapter.

    The base layer is a `QLoRALinear` without adapter. Several active adapters add their updates up.
    DoRA's norm is kept from one optimizer step to the next in train mode, and computed at every
    call in eval mode, where factors may be exchanged by hand.
    """

    base_layer: QLoRALinear
    lora_A: Any  # by the adapter's name
    lora_B: Any
    lora_magnitude_vector: Any

    def __init__(self, base_layer: QLoRALinear, adapter_name: str, **options: Any) -> None:
        """peft's arguments. Raises InputError for a base layer that has an adapter of its own."""
        if parameter := options.get("parameter_name"):
            raise InputError(f"get_peft_model: target_parameters should be none, were {parameter}")
        _without_own_adapter(base_layer)
        super().__init__(base_layer, adapter_name, **options)
        self.fan_in_fan_out = options["config"].fan_in_fan_out = False  # ours is [out, in]
        self.unmerged: Unmerged | None = None  # what `merge` replaced, packed
        self.merge_loss: MergeLoss | None = None  # what that cost

    @property
    def lora_variants(self) -> dict[tuple[str, ...], type[LoraVariant] | None]:
        """What stands beside plain LoRA."""
        return {(): None, ("use_dora",): FusedDora}

    def update_layer(self, adapter_name: str, *arguments: Any, **options: Any) -> None:
        """Add an adapter. Raises InputError for what would change the base or needs another op."""
        config: LoraConfig = options["config"]
        if config.init_lora_weights not in INITS:
            allowed = ", ".join(map(str, INITS))
            raise InputError(
                f"get_peft_model: init_lora_weights should be one of {allowed} (a quantized base "
                f"cannot give a part of itself away), was {config.init_lora_weights!r}"
            )
        if config.use_qalora:
            raise InputError("get_peft_model: use_qalora should be False, was True")
        super().update_layer(adapter_name, *arguments, **options)

    def forward(self, x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        """x [..., in] -> [..., out]; under autocast in its dtype, else in x's."""
        self._check_forward_args(x, *arguments, **named)  # type: ignore[no-untyped-call]
        batch_of_adapters = named.pop("adapter_names", None)
        if self.disable_adapters and self.merged:
            self.unmerge()
        y: torch.Tensor
        active = [name for name in self.active_adapters if name in self.lora_A]
        if batch_of_adapters is not None and not self.disable_adapters:
            y = self._mixed_batch_forward(x, adapter_names=batch_of_adapters)
            return y
        if self.disable_adapters or self.merged or not active:
            y = self.base_layer(x)
            return y
        dtype = autocast_dtype(x.device.type)
        x = x if dtype is None else x.to(dtype)
        first, *others = active
        y = self._with_adapter(x, first, self._bias(active))
        for name in others:
            y = y + self._with_adapter(x, name) - qlora_linear(x, self.base_layer.base)
        return y

    def adapter(self, name: str) -> Adapter:
        """The adapter as the op takes it, without dropout."""
        magnitudes = self.lora_magnitude_vector
        return Adapter(
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            float(self.scaling[name]),
            dropout_on="input",
            magnitude=magnitudes[name].weight if name in magnitudes else None,
        )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into the base, in its format; `unmerge` gives every bit back.

        What that lost is `merge_loss`. safe_merge: raise InputError where less than
        `nn.merging.MIN_RETAINED` of the update would survive the format, which is warned of
        otherwise.
        """
        merge(self, safe_merge, adapter_names)

    def unmerge(self) -> None:
        """Put the base back that `merge` replaced, bit for bit."""
        unmerge(self)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> QLoRALinear:
        """The base layer alone, for `unload` and `merge_and_unload`."""
        if merge:
            self.merge(safe_merge, adapter_names)
        return self.base_layer

    def _with_adapter(
        self, x: torch.Tensor, name: str, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`y` of one adapter, with its dropout in train mode."""
        base, adapter, dropout = self.base_layer.base, self.adapter(name), self.lora_dropout[name]
        norm = None
        if adapter.magnitude is not None and self.training and not torch.compiler.is_compiling():
            norm = self.base_layer.column_norm.of(base, adapter)
        if isinstance(dropout, nn.Dropout | nn.Identity):
            p = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
            adapter = replace(adapter, dropout=p)
            return qlora_linear(x, base, adapter, bias, column_norm=norm)
        dropped = dropout(x)  # a module that somebody put in its place
        rest = qlora_linear(x - dropped, base, None, bias)
        return rest + qlora_linear(dropped, base, adapter, column_norm=norm)

    def _bias(self, active: list[str]) -> torch.Tensor | None:
        """The base's and, with `lora_bias`, those of the adapters."""
        bias: torch.Tensor | None = self.base_layer._parameters["bias"]
        for name in active:
            if self.lora_bias[name]:
                own = self.scaling[name] * self.lora_B[name].bias
                bias = own if bias is None else bias + own
        return bias


def _without_own_adapter(layer: QLoRALinear) -> None:
    """Take a fresh adapter of `prepare_model` away, and refuse one that has learnt something."""
    if layer.unmerged_base is not None:
        raise InputError("get_peft_model: layers should be unmerged (unmerge_adapter), one is not")
    if layer.lora_b is not None and layer.lora_b.any():
        raise InputError(
            "get_peft_model: layers should be without adapters of their own, one has a trained one "
            "(qk.save_adapter writes it for PeftModel.from_pretrained over an unprepared model)"
        )
    layer.remove_adapter()
