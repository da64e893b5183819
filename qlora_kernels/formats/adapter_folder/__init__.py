"""peft's adapter folders, read and written without a model.

adapter_config.json         r, lora_alpha, patterns, flags
adapter_model.safetensors   base_model.model.<layer>.<part>, where <part> is

lora_A.weight [r, in]   lora_B.weight [out, r]   lora_magnitude_vector [out]
lora_embedding_A [r, vocabulary]   lora_embedding_B [dim, r]
token_adapter.trainable_tokens_delta [tokens, dim]: the rows themselves, no difference
base_layer.bias [out]   base_layer.weight   weight: what takes the place of the base's
"""

from qlora_kernels.formats.adapter_folder.config import read_config
from qlora_kernels.formats.adapter_folder.folder import (
    AdapterFolder,
    AdapterFolderConfig,
    LayerFactors,
    TokenRows,
)
from qlora_kernels.formats.adapter_folder.read import PREFIX, WEIGHTS_FILE, read_adapter_folder
from qlora_kernels.formats.adapter_folder.write import peft_tensors, write_adapter_folder

__all__ = [
    "PREFIX",
    "WEIGHTS_FILE",
    "AdapterFolder",
    "AdapterFolderConfig",
    "LayerFactors",
    "TokenRows",
    "peft_tensors",
    "read_adapter_folder",
    "read_config",
    "write_adapter_folder",
]
