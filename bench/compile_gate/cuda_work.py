"""What a block of threads of each CUDA kernel does in its inner loop; machine code can't tell."""

from collections.abc import Callable
from dataclasses import dataclass

Arguments = tuple[str, ...]  # of a kernel's template, as `configuration` has them


def _nothing(arguments: Arguments) -> int:
    return 0


@dataclass(frozen=True)
class CudaWork:
    """decoded_weights, moved_bytes (in a pass of the loop with `mark`), shared_bytes: a block's."""

    op: str
    num_warps: int
    mark: str = ""  # how an instruction begins that only the main loop has
    has_bound: bool = True  # whether one loop is the work, so that its code bounds the speed
    decoded_weights: Callable[[Arguments], int] = _nothing
    moved_bytes: Callable[[Arguments], int] = _nothing  # 0: those of its loads and stores
    shared_bytes: Callable[[Arguments], int] = _nothing  # dynamic


def _dequantized(arguments: Arguments) -> int:
    """A tile of 2048 bytes of codes for each of 16 warps."""
    is_int8 = arguments[1] == "true"
    return 16 * 2048 * (1 if is_int8 else 2)


def _quantized(arguments: Arguments) -> int:
    """A span of 256 values for each of 8 warps: values, codes and a scale for 64 of them."""
    value = {"fp32": 4.0}.get(arguments[0], 2.0)
    code = 1.0 if arguments[1] == "cuda::Int8Codes" else 0.5
    return int(8 * 256 * (value + code + 4 / 64))


def _few_rows(arguments: Arguments) -> int:
    """Of 8 warps: two steps of 64 bytes of codes for 32 rows; or 8 columns a lane, one by one."""
    per_byte = {"cuda::Nibbles": 2, "cuda::Bytes": 1}.get(arguments[-2])
    return 8 * 32 * (8 if per_byte is None else 2 * 64 * per_byte)


def _few_rows_shared(arguments: Arguments) -> int:
    """256 rows of what warps pass on, beside the pairs of values where codes have four bits."""
    return {"cuda::Nibbles": 64 << 10, "cuda::Bytes": 32 << 10}.get(arguments[-2], 16448)


KERNELS = {
    # A block runs some of the code, by dtypes and states, which machine code cannot tell: no bound.
    "adamw_kernel": CudaWork("adamw", 8, has_bound=False, shared_bytes=lambda _: 4 << 10),
    # No loop is all of the work: how often the one over ranks runs, machine code cannot tell.
    "dora_column_norm_kernel": CudaWork("dora_column_norm", 8, has_bound=False),
    "dequantize_kernel": CudaWork("dequantize", 16, "IMMA", decoded_weights=_dequantized),
    "qlora_linear_kernel": CudaWork(
        "qlora_linear", 8, decoded_weights=_few_rows, shared_bytes=_few_rows_shared
    ),
    "quantize_kernel": CudaWork("quantize", 8, "LDG.E.128.CONSTANT", moved_bytes=_quantized),
    "quantize_scales_kernel": CudaWork("quantize", 8),
    # How many scales are tried, machine code cannot tell. Shared memory: blocks of 64, weighed.
    "search_scales_kernel": CudaWork(
        "quantize", 2, has_bound=False, shared_bytes=lambda _: 2 * 2 * 64 * 4
    ),
}
