"""bitsandbytes.functional: quantization, its states and its maps, over this library's ops."""

from qlora_kernels.compat.bitsandbytes.absent import absent
from qlora_kernels.compat.bitsandbytes.functional.blockwise import (
    dequantize_blockwise,
    quantize_blockwise,
)
from qlora_kernels.compat.bitsandbytes.functional.four_bit import (
    dequantize_4bit,
    dequantize_fp4,
    dequantize_nf4,
    has_avx512bf16,
    quantize_4bit,
    quantize_fp4,
    quantize_nf4,
)
from qlora_kernels.compat.bitsandbytes.functional.maps import (
    create_dynamic_map,
    create_fp8_map,
    create_linear_map,
    create_normal_map,
    get_4bit_type,
)
from qlora_kernels.compat.bitsandbytes.functional.quant_state import QuantState
from qlora_kernels.compat.bitsandbytes.products import gemv_4bit

__all__ = [
    "QuantState",
    "create_dynamic_map",
    "create_fp8_map",
    "create_linear_map",
    "create_normal_map",
    "dequantize_4bit",
    "dequantize_blockwise",
    "dequantize_fp4",
    "dequantize_nf4",
    "gemv_4bit",
    "get_4bit_type",
    "has_avx512bf16",
    "quantize_4bit",
    "quantize_blockwise",
    "quantize_fp4",
    "quantize_nf4",
]

for _name in (
    "batched_igemm",
    "igemm",
    "int8_double_quant",
    "int8_linear_matmul",
    "int8_mm_dequant",
    "int8_vectorwise_dequant",
    "int8_vectorwise_quant",
):
    globals()[_name] = absent(_name, 'LLM.int8() is not; qlora_kernels.quantize(w, "int8") is')
