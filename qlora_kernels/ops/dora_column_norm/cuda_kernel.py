"""`dora_column_norm` on NVIDIA GPUs by one CUDA launch, straight from packed codes."""

import torch

from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.gpu import cuda_module
from qlora_kernels.gpu.arrivals import arrivals
from qlora_kernels.gpu.shares import splits

BACKEND = "cuda"


def refuses(base: Base, adapter: Adapter) -> str | None:
    """Takes float32, bfloat16 and float16 factors on an NVIDIA GPU, over a quantized base."""
    if not isinstance(base, QuantizedTensor):
        return "the base weight is dense"
    factors = {"a": adapter.a, "b": adapter.b}
    wrong = (cuda_module.misplaced(name, factor) for name, factor in factors.items())
    return next((reason for reason in wrong if reason), None)


def column_norm(base: QuantizedTensor, adapter: Adapter) -> torch.Tensor:
    """`|W + s B A|` per output feature, [n]: squares summed in registers, in a fixed order."""
    module = cuda_module.kernels()
    (n, k), a, b = base.shape, adapter.a.contiguous(), adapter.b.contiguous()
    groups = -(-n // module.NORM_ROWS)
    shares = splits(groups, k, module.NORM_COLUMNS)
    if k == 0:
        return a.new_zeros(n, dtype=torch.float32)
    norm = a.new_empty(n, dtype=torch.float32)
    partial = a.new_empty(shares if shares > 1 else 0, n, dtype=torch.float32)
    with cuda_module.stream_of(norm) as stream:
        counters = arrivals(groups, a.device, stream)
        module.dora_column_norm(
            cuda_module.weight(base),
            (cuda_module.matrix(a), cuda_module.matrix(b), adapter.scaling),
            shares,
            [norm.data_ptr(), partial.data_ptr(), counters.data_ptr()],
            stream,
        )
    return norm
