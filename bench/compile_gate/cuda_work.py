"""What a block of threads of each CUDA kernel does in its inner loop; machine code can't tell."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.compile_gate.parts import alternative, norm_tile
from bench.compile_gate.sass import Body, inner_body

Arguments = tuple[str, ...]  # of a kernel's template, as `configuration` has them


def _nothing(arguments: Arguments) -> int:
    return 0


@dataclass(frozen=True)
class CudaWork:
    """decoded_weights, moved_bytes (in a pass of the loop with `mark`), shared_bytes: a block's.

    Where no single loop is the work, a kernel has a row for each of its `parts`: what it is for,
    and how its instructions are found. `multiply_adds` are float32 ones of a decoded weight, where
    they may be the roof.
    """

    op: str
    num_warps: int
    mark: str = ""  # how an instruction begins that only the main loop has
    has_bound: bool = True  # whether one loop is the work, so that its code bounds the speed
    decoded_weights: Callable[[Arguments], int] = _nothing
    moved_bytes: Callable[[Arguments], int] = _nothing  # 0: those of its loads and stores
    shared_bytes: Callable[[Arguments], int] = _nothing  # dynamic
    multiply_adds: Callable[[Arguments], int] = _nothing
    part: str = ""
    part_of: Callable[[str], Body] | None = None

    def read(self, code: str) -> Body:
        """What one pass runs of a kernel's machine code."""
        return inner_body(code, self.mark) if self.part_of is None else self.part_of(code)


def _dequantized(arguments: Arguments) -> int:
    """A tile of 2048 bytes of codes for each of 16 warps."""
    is_int8 = arguments[1] == "true"
    return 16 * 2048 * (1 if is_int8 else 2)


def _quantized(arguments: Arguments) -> int:
    """A span of 256 values for each of 8 warps: values, codes and a scale for 64 of them."""
    value = {"fp32": 4.0}.get(arguments[0], 2.0)
    code = 1.0 if arguments[1] == "cuda::Int8Codes" else 0.5
    return int(8 * 256 * (value + code + 4 / 64))


def _walk(arguments: Arguments) -> tuple[str, str]:
    """The walk of a kernel for few rows, and what it takes codes for: ('Tensor', 'Nibbles')."""
    found = re.search(
        r"(Tensor|Float|Scalar)Walk<(?:.*cuda::(?:Float)?(Nibbles|Bytes))?", " ".join(arguments)
    )
    assert found is not None, arguments
    return found[1], found[2] or ""


def _few_rows(arguments: Arguments) -> int:
    """Of 8 warps: two steps of 64 bytes of codes for 32 rows; one of 64 columns; or 8 columns."""
    walk, codes = _walk(arguments)
    columns = {"Tensor": 2 * 64 * (2 if codes == "Nibbles" else 1), "Float": 64, "Scalar": 8}
    return 8 * 32 * columns[walk]


def _rows_of_x(arguments: Arguments) -> int:
    """That float32 sums are of: each takes a multiply-add of every weight."""
    return int(arguments[-1].rstrip(" >")) if _walk(arguments)[0] == "Float" else 0


def _few_rows_shared(arguments: Arguments) -> int:
    """256 rows of what warps pass on, beside the pairs of values where codes have four bits."""
    walk, codes = _walk(arguments)
    if walk == "Scalar":
        return 16448
    rows, staged = {"Nibbles": 64 << 10, "Bytes": 32 << 10}[codes], _rows_of_x(arguments)
    if walk == "Float":  # and 64 columns of x for each warp, where it has several rows
        rows += 8 * (staged * 64 * 4 if staged > 1 else 16)
    return rows


def _step_of(name: str, bytes_moved: float, accesses: Mapping[str, int]) -> CudaWork:
    """One pass of 8 warps over a block of 256 elements each."""
    return CudaWork(
        "adamw",
        8,
        decoded_weights=lambda _: 8 * 256,
        shared_bytes=lambda _: _STEP_SHARED,
        part=name,
        part_of=lambda code: alternative(code, accesses),
        moved_bytes=lambda _: round(8 * 256 * bytes_moved),
    )


_STEP_SHARED = 9816  # csrc/cuda/adamw8bit.cu, Shared
_SCALES = 2 * 2 * 4 / 256  # of two 8-bit states, read and written
_STEPS = (
    # Parameter read and written, gradient read, states read and written.
    _step_of("fp32, 8-bit", 12 + 4 + _SCALES, {"LDG128": 4, "LDG64": 2, "STG128": 2, "STG64": 2}),
    _step_of("fp32, 32-bit", 12 + 16, {"LDG128": 8, "STG128": 6}),
    _step_of("16-bit, 8-bit", 6 + 4 + _SCALES, {"LDG128": 2, "LDG64": 2, "STG128": 1, "STG64": 2}),
    _step_of("16-bit, 32-bit", 6 + 16, {"LDG128": 6, "STG128": 5}),
)

_RANK = 16

KERNELS = {
    "adamw_kernel": _STEPS,
    # Of three loops, by the gradients' type, with a way for tails in each.
    "squares_kernel": (CudaWork("adamw", 8, has_bound=False),),
    # A tile of 128 rows and columns, for adapters as most people train them.
    "dora_column_norm_kernel": (
        CudaWork(
            "dora_column_norm",
            8,
            decoded_weights=lambda _: 128 * 128,
            multiply_adds=lambda _: _RANK,
            part=f"rank {_RANK}",
            part_of=lambda code: norm_tile(code, _RANK),
        ),
    ),
    "dequantize_kernel": (CudaWork("dequantize", 16, "IMMA", decoded_weights=_dequantized),),
    "qlora_linear_kernel": (
        CudaWork(
            "qlora_linear",
            8,
            decoded_weights=_few_rows,
            shared_bytes=_few_rows_shared,
            multiply_adds=_rows_of_x,
        ),
    ),
    "quantize_kernel": (CudaWork("quantize", 8, "LDG.E.128.CONSTANT", moved_bytes=_quantized),),
    "quantize_scales_kernel": (CudaWork("quantize", 8),),
    # How many scales are tried, machine code cannot tell. Shared memory: blocks of 64, weighed.
    "search_scales_kernel": (
        CudaWork("quantize", 2, has_bound=False, shared_bytes=lambda _: 2 * 2 * 64 * 4),
    ),
}
