"""Layers and the surgery that puts them into a model: state, no maths."""

from qlora_kernels.nn.adapter_files import (
    adapters_of,
    load_adapter,
    read_adapter_config,
    save_adapter,
)
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.description import Description, describe
from qlora_kernels.nn.importance import measure_importance
from qlora_kernels.nn.merging import MergeLoss, merge_adapter, unmerge_adapter
from qlora_kernels.nn.parameter_groups import parameter_groups
from qlora_kernels.nn.qlora_embedding import QLoRAEmbedding
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.requantize import requantize
from qlora_kernels.nn.shared_input import share_inputs
from qlora_kernels.nn.surgery import (
    adapter_parameters,
    disable_adapters,
    prepare_model,
    quantized_layers,
)
from qlora_kernels.nn.token_rows import TokenHead

__all__ = [
    "Description",
    "MergeLoss",
    "QLoRAConfig",
    "QLoRAEmbedding",
    "QLoRALinear",
    "TokenHead",
    "adapter_parameters",
    "adapters_of",
    "describe",
    "disable_adapters",
    "load_adapter",
    "measure_importance",
    "merge_adapter",
    "parameter_groups",
    "prepare_model",
    "quantized_layers",
    "read_adapter_config",
    "requantize",
    "save_adapter",
    "share_inputs",
    "unmerge_adapter",
]
