"""NF4 and FP4 by bitsandbytes' names, over `quantize` and `dequantize` of this library."""

import torch

from qlora_kernels.compat.bitsandbytes.errors import MisfitError
from qlora_kernels.compat.bitsandbytes.functional.blockwise import FLOATS, effective_absmax
from qlora_kernels.compat.bitsandbytes.functional.maps import get_4bit_type
from qlora_kernels.compat.bitsandbytes.functional.quant_state import QuantState
from qlora_kernels.errors import InputError
from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import BLOCK_SIZES, NESTED_BLOCK_SIZE, dynamic_map
from qlora_kernels.ops import dequantize, quantize

_DEFAULT_BLOCKSIZE = 64


def quantize_4bit(
    A: torch.Tensor,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
    compress_statistics: bool = False,
    quant_type: str = "fp4",
    quant_storage: torch.dtype = torch.uint8,
) -> tuple[torch.Tensor, QuantState]:
    """Codes of 4 bits, two a byte (`qlora_kernels.quantize` has the formula and the layout).

    A: any shape, float32, float16 or bfloat16, finite. absmax, out: written to if given. blocksize:
    32, 64 (the default), 128, ... 4096. compress_statistics: double quantization. quant_storage:
    the dtype by which the bytes go. Returns (codes [bytes / itemsize, 1], their state).

    Raises ValueError for another dtype, block size or type and for a value that is not finite,
    RuntimeError for a quant_storage that does not divide the bytes.
    """
    size = _DEFAULT_BLOCKSIZE if blocksize is None else blocksize
    _check("quantize_4bit", size, quant_type, A.dtype)
    q = quantize(A, quant_type, size, bool(compress_statistics))
    codes = q.codes.view(-1).view(quant_storage).unsqueeze(1)
    stored = q.scales if absmax is None else absmax.copy_(q.scales)
    state2 = None
    if q.nested_absmax is not None:
        state2 = QuantState(
            q.nested_absmax,
            code=dynamic_map(A.device).clone(),
            blocksize=NESTED_BLOCK_SIZE,
            dtype=torch.float32,
        )
    code = get_4bit_type(quant_type, A.device)
    state = QuantState(stored, A.shape, code, size, quant_type, A.dtype, q.nested_offset, state2)
    return codes if out is None else out.copy_(codes), state


def quantize_nf4(
    A: torch.Tensor,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
    compress_statistics: bool = False,
    quant_storage: torch.dtype = torch.uint8,
) -> tuple[torch.Tensor, QuantState]:
    """`quantize_4bit` in NF4."""
    return quantize_4bit(A, absmax, out, blocksize, compress_statistics, "nf4", quant_storage)


def quantize_fp4(
    A: torch.Tensor,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
    compress_statistics: bool = False,
    quant_storage: torch.dtype = torch.uint8,
) -> tuple[torch.Tensor, QuantState]:
    """`quantize_4bit` in FP4."""
    return quantize_4bit(A, absmax, out, blocksize, compress_statistics, "fp4", quant_storage)


def dequantize_4bit(
    A: torch.Tensor,
    quant_state: QuantState | None = None,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
    quant_type: str = "fp4",
) -> torch.Tensor:
    """`code[index] * absmax`, of the original shape and dtype.

    A: packed codes in any storage dtype; if they come transposed, [1, n], so does the result.
    absmax, blocksize, quant_type: instead of a state, with an out that has the shape and dtype.
    out: of the original shape and dtype, contiguous.

    Raises ValueError without a state or absmax and out, and for another dtype, block size or type;
    MisfitError, which is a RuntimeError, for parts that do not belong together.
    """
    if quant_state is None:
        if absmax is None or out is None:
            raise InputError(
                "dequantize_4bit: should get a quant_state, or both absmax and out, got neither"
            )
        size = _DEFAULT_BLOCKSIZE if blocksize is None else blocksize
        quant_state = QuantState(absmax, out.shape, None, size, quant_type, out.dtype)
    q = as_quantized(A, quant_state, "dequantize_4bit")
    try:
        result = dequantize(q, quant_state.dtype, out)
    except InputError as error:
        raise MisfitError(str(error)) from None
    is_transposed = A.dim() == 2 and A.shape[0] == 1 and A.shape[1] > 1
    return result.t() if is_transposed else result


def dequantize_nf4(
    A: torch.Tensor,
    quant_state: QuantState | None = None,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
) -> torch.Tensor:
    """`dequantize_4bit` of NF4."""
    return dequantize_4bit(A, quant_state, absmax, out, blocksize, "nf4")


def dequantize_fp4(
    A: torch.Tensor,
    quant_state: QuantState | None = None,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
) -> torch.Tensor:
    """`dequantize_4bit` of FP4."""
    return dequantize_4bit(A, quant_state, absmax, out, blocksize, "fp4")


def has_avx512bf16() -> bool:
    """Whether layers re-pack their weights for inference: never here, one layout serves all."""
    return False


def as_quantized(packed: torch.Tensor, state: QuantState, who: str) -> QuantizedTensor:
    """Packed codes and their state as the ops take them; no byte is copied.

    Raises ValueError for a state that is none of 4 bits.
    """
    size, quant_type, dtype, shape = state.blocksize, state.quant_type, state.dtype, state.shape
    if size is None or quant_type is None or dtype is None or shape is None:
        raise InputError(f"{who}: quant_state should have shape, dtype, blocksize and quant_type")
    _check(who, size, quant_type, dtype)
    scales, nested_absmax, offset = state.absmax, None, None
    if state.state2 is not None and state.offset is not None and state.compressed_as_usual:
        nested_absmax, offset = state.state2.absmax.float(), state.offset.float()
    else:
        scales = effective_absmax(state)
    codes = packed.reshape(-1).view(torch.uint8).view(-1, 1)
    return QuantizedTensor(codes, scales, nested_absmax, offset, shape, dtype, quant_type, size)


def _check(who: str, blocksize: int, quant_type: str, dtype: torch.dtype) -> None:
    if blocksize not in BLOCK_SIZES:
        sizes = ", ".join(map(str, BLOCK_SIZES))
        raise InputError(f"{who}: invalid blocksize: should be one of {sizes}, was {blocksize}")
    if quant_type not in QuantState.valid_quant_types:
        raise InputError(f"{who}: quant_type should be 'nf4' or 'fp4', was {quant_type!r}")
    if dtype not in FLOATS:
        raise InputError(f"{who}: dtype should be a 16/32-bit float, was {dtype}")
