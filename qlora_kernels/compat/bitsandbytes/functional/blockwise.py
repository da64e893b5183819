"""Codes of 8 bits in blocks, for any map of up to 256 values.

    absmax[j] = max |A[i]| over block j
    q[i]      = index of the value of `code` nearest to A[i] / absmax[j], ties to the lower value
    A[i]      = code[q[i]] * absmax[j]

bitsandbytes' CPU library looks the index up in a table of 65536 steps, which is not always the
nearest and never 0 for 0; its GPU kernels search, as this does.
"""

import torch

from qlora_kernels.compat.bitsandbytes.errors import MisfitError
from qlora_kernels.compat.bitsandbytes.functional.quant_state import QuantState
from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import dynamic_map
from qlora_kernels.ops.quantize.scale_search import blocks_of

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def quantize_blockwise(
    A: torch.Tensor,
    code: torch.Tensor | None = None,
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int = 4096,
    nested: bool = False,
) -> tuple[torch.Tensor, QuantState]:
    """`q = nearest(A / absmax)` per block (formula at the top of this file).

    A: any shape, float32, float16 or bfloat16. code: the map, by default the signed dynamic one.
    absmax, out: written to if given. blocksize: any positive number. nested: compress absmax too,
    less its mean, in blocks of the same size. Returns (uint8 of A's shape, its state).

    Raises ValueError for another dtype, a blocksize below 1 and a map of more than 256 values.
    """
    if blocksize <= 0:
        raise InputError(f"quantize_blockwise: blocksize should be positive, was {blocksize}")
    if A.dtype not in FLOATS:
        raise InputError(f"quantize_blockwise: A should be a 16/32-bit float, was {A.dtype}")
    code = dynamic_map(A.device).clone() if code is None else code.to(A.device, copy=True)
    blocks = blocks_of(A.detach().reshape(-1).float(), blocksize)
    scales = blocks.abs().amax(dim=1)
    ratios = blocks / torch.where(scales > 0, scales, 1.0)[:, None]
    codes = _nearest(ratios.view(-1)[: A.numel()], code).view(A.shape)
    offset = state2 = None
    stored = scales
    if nested:
        offset = scales.mean()
        stored, state2 = quantize_blockwise(scales - offset, blocksize=blocksize)
    if absmax is not None:
        stored = absmax.copy_(stored)
    state = QuantState(
        stored, code=code, blocksize=blocksize, dtype=A.dtype, offset=offset, state2=state2
    )
    return codes if out is None else out.copy_(codes), state


def dequantize_blockwise(
    A: torch.Tensor,
    quant_state: QuantState | None = None,
    absmax: torch.Tensor | None = None,
    code: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int = 4096,
    nested: bool = False,
) -> torch.Tensor:
    """`code[q] * absmax` per block: one float32 product, rounded once to the state's dtype.

    A: uint8, any shape. absmax, code, blocksize: instead of a state, for float32. out: of A's shape
    and that dtype. nested: without meaning, the state says it.

    Raises ValueError without state and absmax, for an A that is not uint8 and for a blocksize below
    1; MisfitError, which is a RuntimeError, for an absmax or an out of another size.
    """
    if quant_state is None:
        if absmax is None:
            raise InputError("dequantize_blockwise: should get a quant_state or absmax, got none")
        code = dynamic_map(A.device) if code is None else code
        quant_state = QuantState(absmax, code=code, blocksize=blocksize, dtype=torch.float32)
    size, dtype, values = quant_state.blocksize, quant_state.dtype, quant_state.code
    if A.dtype != torch.uint8:
        raise InputError(f"dequantize_blockwise: A should be uint8, was {A.dtype}")
    if size is None or size <= 0:
        raise InputError(f"dequantize_blockwise: blocksize should be positive, was {size}")
    if values is None or dtype is None:
        raise InputError("dequantize_blockwise: quant_state should have code and dtype, lacks one")
    scales = effective_absmax(quant_state).reshape(-1)
    decoded = values.to(A.device).float().index_select(0, A.reshape(-1).int())
    blocks = blocks_of(decoded, size)
    if len(blocks) != len(scales):
        raise MisfitError(
            f"dequantize_blockwise: absmax should be [{len(blocks)}], was [{len(scales)}]"
        )
    result = (blocks * scales[:, None]).view(-1)[: A.numel()].view(A.shape).to(dtype)
    if out is None:
        return result
    if out.shape != A.shape or out.dtype != dtype:
        raise MisfitError(
            f"dequantize_blockwise: out should be {dtype} {list(A.shape)}, "
            f"was {out.dtype} {list(out.shape)}"
        )
    return out.copy_(result)


def effective_absmax(state: QuantState) -> torch.Tensor:
    """The scale of each block, float32, whatever is stored."""
    if state.state2 is None or state.offset is None:
        return state.absmax.float()
    return dequantize_blockwise(state.absmax, state.state2).float() + state.offset


def _nearest(ratios: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """Indices into code, uint8; distances are compared in float64, so that a tie is a tie."""
    if code.numel() > 256:
        raise InputError(f"quantize_blockwise: code should have 256 values, had {code.numel()}")
    ordered, order = code.double().sort(stable=True)
    thresholds = (ordered[:-1] + ordered[1:]) / 2
    return order.to(torch.uint8)[torch.bucketize(ratios.double(), thresholds)]
