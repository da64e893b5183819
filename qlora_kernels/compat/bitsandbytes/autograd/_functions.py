"""The products by the module in which bitsandbytes defines them."""

from qlora_kernels.compat.bitsandbytes.absent import absent
from qlora_kernels.compat.bitsandbytes.products import matmul_4bit

__all__ = ["MatMul4Bit", "MatMul8bitLt", "MatmulLtState", "matmul", "matmul_4bit"]

_INSTEAD = "LLM.int8() is not; `matmul_4bit` and qlora_kernels.qlora_linear are"
MatMul4Bit = absent("MatMul4Bit", "`matmul_4bit` is differentiable by itself")
MatMul8bitLt = absent("MatMul8bitLt", _INSTEAD)
MatmulLtState = absent("MatmulLtState", _INSTEAD)
matmul = absent("matmul", _INSTEAD)
