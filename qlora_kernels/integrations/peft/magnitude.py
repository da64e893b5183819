"""DoRA's magnitude in peft's place for it, from our norm: no dense weight at any time."""

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn

from qlora_kernels.ops import dora_column_norm


class FusedDora(DoraLinearVariant):
    """What peft asks a variant for; forward and merging are the layer's."""

    @staticmethod
    def init(module: Any, adapter_name: str, **_: Any) -> None:
        """`magnitude = |W + s B A|` per output feature, so that training starts from the base."""
        adapter = module.adapter(adapter_name)
        if adapter.a.is_meta:  # peft makes adapters without memory before it loads them
            magnitude = torch.empty(module.out_features, device="meta")
        else:
            magnitude = dora_column_norm(module.base_layer.base, adapter)
        holder = DoraLinearLayer(fan_in_fan_out=False)
        holder.weight = nn.Parameter(magnitude)
        module.lora_magnitude_vector[adapter_name] = holder
