"""What a block of threads of each CUDA kernel does in its inner loop; machine code can't tell."""

from collections.abc import Callable
from dataclasses import dataclass

Arguments = tuple[str, ...]  # of a kernel's template, as `configuration` has them


def _nothing(arguments: Arguments) -> int:
    return 0


@dataclass(frozen=True)
class CudaWork:
    """decoded_weights (in one pass of the loop that has `mark`) and shared_bytes are a block's."""

    op: str
    num_warps: int
    mark: str = ""  # an opcode that only the main loop has
    decoded_weights: Callable[[Arguments], int] = _nothing
    shared_bytes: int = 0  # dynamic


def _dequantized(arguments: Arguments) -> int:
    """Two tiles of 1024 bytes of codes for each of 16 warps."""
    is_int8 = arguments[1] == "true"
    return 16 * 2 * 1024 * (1 if is_int8 else 2)


KERNELS = {
    "dequantize_kernel": CudaWork("dequantize", 16, "LDGSTS", _dequantized, 72 << 10),
    "quantize_kernel": CudaWork("quantize", 8),
    "quantize_scales_kernel": CudaWork("quantize", 8),
}
