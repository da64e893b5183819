"""bitsandbytes as the truth of the 4-bit formats, asked in the one way that is right on every CPU.

Its dequantize has four implementations. In two dimensions the AVX-512 one reads wrong scales where
the width is no multiple of the block, and odd sizes go to a helper that torch.compile takes seconds
for. A flat call over whole bytes is right everywhere and needs neither.
"""

import torch
from bitsandbytes import functional

INTEGERS = {2: torch.int16, 4: torch.int32}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers, so that the sign of a zero counts and a NaN equals itself."""
    return tensor.contiguous().view(INTEGERS[tensor.dtype.itemsize])


def dequantize_flat(
    codes: torch.Tensor, absmax: torch.Tensor, format: str, block_size: int, dtype: torch.dtype
) -> torch.Tensor:
    """All values in the bytes of `codes`, flat; the caller drops the padding of an odd count."""
    shape = [2 * codes.numel()]
    operator = torch.ops.bitsandbytes.dequantize_4bit.default
    # On AVX-512 machines blocks of 2048 and more go to the compiled helper too.
    with torch.compiler.set_stance("force_eager"):
        values = operator(codes, absmax, block_size, format, shape, dtype).view(-1)
        if dtype == torch.bfloat16 and functional.has_avx512bf16():  # flushes what is denormal
            exact = operator(codes, absmax, block_size, format, shape, torch.float32).view(-1)
            rounded = exact.to(dtype)
            denormal = rounded.abs() < torch.finfo(dtype).tiny
            values[denormal] = rounded[denormal]
    if format == "fp4":
        # Its code 8 is a second zero: -0.0 in bitsandbytes' scalar code, 0.0 in its codebook (the
        # quant_map in its files) and in the other three implementations. Ours is the codebook's.
        nibbles = torch.cat([codes >> 4, codes & 15], dim=1).view(-1)
        values[nibbles == 8] += 0.0
    return values


def absmax_of(state: functional.QuantState) -> torch.Tensor:
    """The scale per block, as bitsandbytes decodes it from a (nested) quantization state."""
    if not state.nested:
        return state.absmax
    return functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
