"""Quantization in plain torch: the rule itself, step by step."""

import torch

from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.formats.codebooks import (
    FORMATS,
    INT8_MAX,
    NESTED_BLOCK_SIZE,
    dynamic_map,
    encoding,
)
from qlora_kernels.ops.quantize.rule import TINY, refuse_nonfinite

BACKEND = "reference"


def refuses(w: torch.Tensor, spec: QuantSpec) -> str | None:
    """Runs everything."""
    return None


def quantize(w: torch.Tensor, spec: QuantSpec) -> QuantizedTensor:
    """Blockwise absmax, codes, and scales of scales."""
    flat = w.reshape(-1).float()
    finite = flat.isfinite()
    refuse_nonfinite(w, -1 if finite.all() else int((~finite).to(torch.uint8).argmax()))
    absmax = _blocks(flat, spec.block_size).abs().amax(dim=1)
    if flat.numel() % spec.block_size and FORMATS[spec.format].codebook:
        absmax[-1] = absmax[-1].clamp(min=TINY)
    if FORMATS[spec.format].codebook:
        codes = _codebook_codes(flat, absmax, spec)
    else:
        codes = _int8_codes(flat, absmax, spec)
    scales, nested_absmax, nested_offset = (
        _quantize_scales(absmax) if spec.double_quant else (absmax, None, None)
    )
    return QuantizedTensor(
        codes,
        scales,
        nested_absmax,
        nested_offset,
        w.shape,
        w.dtype,
        spec.format,
        spec.block_size,
    )


def _blocks(flat: torch.Tensor, block_size: int) -> torch.Tensor:
    """[blocks, block_size], the short last block filled up with zeros."""
    missing = -flat.numel() % block_size
    return torch.nn.functional.pad(flat, (0, missing)).view(-1, block_size)


def _codebook_codes(flat: torch.Tensor, absmax: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """Two codes a byte, the first in the high nibble."""
    thresholds, order = encoding(spec.format, flat.device)
    full = flat.numel() - flat.numel() % spec.block_size
    # bitsandbytes multiplies full blocks by the reciprocal and divides the short one.
    inverse = 1.0 / absmax.clamp(min=TINY)
    scaled = _blocks(flat[:full], spec.block_size) * inverse[: full // spec.block_size, None]
    scaled = (
        torch.cat([scaled.view(-1), flat[full:] / absmax[-1:]]) if full < flat.numel() else scaled
    )
    scaled = torch.nn.functional.pad(scaled.reshape(-1).clamp(-1, 1), (0, flat.numel() % 2))
    codes = order[torch.bucketize(scaled, thresholds)]
    return (codes[::2] << 4 | codes[1::2]).unsqueeze(1)


def _int8_codes(flat: torch.Tensor, absmax: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """One two's complement byte a value."""
    scale = absmax / INT8_MAX
    ratios = _blocks(flat, spec.block_size) / torch.where(scale > 0, scale, 1.0)[:, None]
    codes = ratios.round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    return codes.view(-1)[: flat.numel()].clone().view(torch.uint8).unsqueeze(1)


def _quantize_scales(absmax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(uint8 codes, nested absmax, offset): nearest in the dynamic map, ties to the lower."""
    offset = absmax.mean() if absmax.numel() else absmax.new_zeros(())
    blocks = _blocks(absmax - offset, NESTED_BLOCK_SIZE)
    nested_absmax = blocks.abs().amax(dim=1)
    values = dynamic_map(absmax.device)
    # Distances are compared in float64: exact, so that a tie is a tie.
    ratios = (blocks / torch.where(nested_absmax > 0, nested_absmax, 1.0)[:, None]).double()
    above = torch.searchsorted(values.double(), ratios.contiguous()).clamp(1, len(values) - 1)
    below = above - 1
    nearer = (values.double()[above] - ratios) < (ratios - values.double()[below])
    codes = torch.where(nearer, above, below).to(torch.uint8)
    return codes.view(-1)[: absmax.numel()].clone(), nested_absmax, offset
