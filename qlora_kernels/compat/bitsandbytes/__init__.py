"""bitsandbytes' names over this library's ops.

import qlora_kernels.compat.bitsandbytes as bnb
"""

from qlora_kernels.compat.bitsandbytes import functional, nn, optim
from qlora_kernels.compat.bitsandbytes.autograd._functions import MatmulLtState, matmul
from qlora_kernels.compat.bitsandbytes.nn import modules
from qlora_kernels.compat.bitsandbytes.optim import adam
from qlora_kernels.compat.bitsandbytes.products import matmul_4bit

__all__ = [
    "MatmulLtState",
    "adam",
    "functional",
    "matmul",
    "matmul_4bit",
    "modules",
    "nn",
    "optim",
]

# The version whose names these are, and what it says of itself to those who ask.
__version__ = "0.50.2"
features = {"multi_backend"}
supported_torch_devices = {"cpu", "cuda"}
