"""transformers: what plugs into its models and its Trainer.

Importing this imports transformers and registers the quantizer: model folders that were saved in 4
or 8 bits load from then on.
"""

from qlora_kernels.integrations.transformers.bitsandbytes_folder import load_bitsandbytes
from qlora_kernels.integrations.transformers.callback import QLoRACallback
from qlora_kernels.integrations.transformers.quantizer import NF4Config

__all__ = ["NF4Config", "QLoRACallback", "load_bitsandbytes"]
