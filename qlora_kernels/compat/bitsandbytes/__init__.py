"""bitsandbytes' names over this library's ops.

import qlora_kernels.compat.bitsandbytes as bnb
"""

from qlora_kernels.compat.bitsandbytes import functional, nn, optim
from qlora_kernels.compat.bitsandbytes.absent import absent
from qlora_kernels.compat.bitsandbytes.nn import modules
from qlora_kernels.compat.bitsandbytes.optim import adam
from qlora_kernels.compat.bitsandbytes.products import matmul_4bit

__all__ = ["adam", "functional", "matmul", "matmul_4bit", "modules", "nn", "optim"]

matmul = absent("matmul", "LLM.int8() is not; `matmul_4bit` and qlora_kernels.qlora_linear are")
