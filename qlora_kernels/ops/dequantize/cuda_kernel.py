"""Dequantization by one CUDA kernel."""

import torch

from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.gpu import cuda_module

BACKEND = "cuda"


def refuses(q: QuantizedTensor, out: torch.Tensor) -> str | None:
    """Writes float32, bfloat16 and float16 on an NVIDIA GPU."""
    return cuda_module.misplaced("out", out)


def dequantize(q: QuantizedTensor, out: torch.Tensor) -> None:
    """`out = codebook[code] * absmax`, one float32 product and one rounding to out's dtype."""
    weight, element = cuda_module.weight(q), cuda_module.element(out)
    with cuda_module.stream_of(out) as stream:
        cuda_module.kernels().dequantize(weight, out.data_ptr(), element, stream)
