"""bitsandbytes' names over this library's ops.

import qlora_kernels.compat.bitsandbytes as bnb
"""

from qlora_kernels.compat.bitsandbytes import functional, nn
from qlora_kernels.compat.bitsandbytes.nn import modules
from qlora_kernels.compat.bitsandbytes.products import matmul_4bit

__all__ = ["functional", "matmul_4bit", "modules", "nn"]
