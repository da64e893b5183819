"""Quantization in plain torch: the rule itself, step by step."""

import torch

from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.formats.codebooks import (
    FORMATS,
    INT8_MAX,
    NESTED_BLOCK_SIZE,
    dynamic_map,
)
from qlora_kernels.ops.quantize.rule import TINY, nested_offset, refuse_nonfinite
from qlora_kernels.ops.quantize.scale_search import Search, blocks_of, codes_of

BACKEND = "reference"


def refuses(w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None) -> str | None:
    """Runs everything."""
    return None


def quantize(
    w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None = None
) -> QuantizedTensor:
    """Blockwise absmax, codes, and scales of scales."""
    flat = w.reshape(-1).float()
    finite = flat.isfinite()
    refuse_nonfinite(w, -1 if finite.all() else int((~finite).to(torch.uint8).argmax()))
    absmax = blocks_of(flat, spec.block_size).abs().amax(dim=1)
    parts: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = (absmax, None, None)
    if FORMATS[spec.format].codebook is None:
        codes = _int8_codes(flat, absmax, spec)
        if spec.double_quant:
            parts = _quantize_scales(absmax, spec)
        return QuantizedTensor(codes, *parts, w.shape, w.dtype, spec.format, spec.block_size)
    if flat.numel() % spec.block_size:
        absmax[-1] = absmax[-1].clamp(min=TINY)
    scaled = _scaled(flat, absmax, spec)
    search = Search(scaled, absmax, spec, importance)
    ratios = search.best_ratios() if spec.ratios else torch.ones_like(absmax)
    scales = ratios * absmax
    nested_absmax = offset = None
    if spec.double_quant:
        scales, nested_absmax, offset = _quantize_scales(scales, spec)
        if spec.ratios:
            scales, ratios = search.best_nested((scales, nested_absmax, offset))
    parts = (scales, nested_absmax, offset)
    codes = _pack(codes_of(scaled, ratios, spec))
    return QuantizedTensor(codes, *parts, w.shape, w.dtype, spec.format, spec.block_size)


def _scaled(flat: torch.Tensor, absmax: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The values divided by the absmax of their block, in [-1, 1], flat."""
    full = flat.numel() - flat.numel() % spec.block_size
    # bitsandbytes multiplies full blocks by the reciprocal and divides the short one.
    inverse = 1.0 / absmax.clamp(min=TINY)
    scaled = blocks_of(flat[:full], spec.block_size) * inverse[: full // spec.block_size, None]
    return torch.cat([scaled.view(-1), flat[full:] / absmax[-1:]]).clamp(-1, 1)


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the first in the high nibble."""
    return (codes[::2] << 4 | codes[1::2]).unsqueeze(1)


def _int8_codes(flat: torch.Tensor, absmax: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """One two's complement byte a value."""
    scale = absmax / INT8_MAX
    ratios = blocks_of(flat, spec.block_size) / torch.where(scale > 0, scale, 1.0)[:, None]
    codes = ratios.round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    return codes.view(-1)[: flat.numel()].clone().view(torch.uint8).unsqueeze(1)


def _quantize_scales(
    absmax: torch.Tensor, spec: QuantSpec
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(uint8 codes, nested absmax, offset): nearest in the dynamic map, ties to the lower."""
    offset = nested_offset(absmax, spec)
    blocks = blocks_of(absmax - offset, NESTED_BLOCK_SIZE)
    nested_absmax = blocks.abs().amax(dim=1)
    values = dynamic_map(absmax.device)
    # Distances are compared in float64: exact, so that a tie is a tie.
    ratios = (blocks / torch.where(nested_absmax > 0, nested_absmax, 1.0)[:, None]).double()
    above = torch.searchsorted(values.double(), ratios.contiguous()).clamp(1, len(values) - 1)
    below = above - 1
    nearer = (values.double()[above] - ratios) < (ratios - values.double()[below])
    codes = torch.where(nearer, above, below).to(torch.uint8)
    return codes.view(-1)[: absmax.numel()].clone(), nested_absmax, offset
