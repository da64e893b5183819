"""The search for the scale of a block, in plain torch; bit for bit what the kernels do.

Values come divided by their block's absmax, and a scale as its ratio to that absmax. Errors are
compared, so their sums have one order: eight running sums over a block, value i in sum i % 8, then
((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)).
"""

import torch

from qlora_kernels.formats import QuantSpec
from qlora_kernels.formats.codebooks import NESTED_BLOCK_SIZE, codebook, dynamic_map, encoding
from qlora_kernels.ops.quantize.rule import TINY

_NUM_SUMS = 8


def blocks_of(flat: torch.Tensor, block_size: int) -> torch.Tensor:
    """[blocks, block_size], the short last block filled up with zeros."""
    missing = -flat.numel() % block_size
    return torch.nn.functional.pad(flat, (0, missing)).view(-1, block_size)


def codes_of(scaled: torch.Tensor, ratios: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The nearest codes of flat values in scales of these ratios; an odd count gets one of zero."""
    _, order = encoding(spec.format, scaled.device)
    per_value = _inverse(ratios).repeat_interleave(spec.block_size)[: scaled.numel()]
    ranks = _ranks(scaled * per_value, spec)
    codes = order[torch.nn.functional.pad(ranks, (0, 1), value=_rank_of_zero(spec, scaled))]
    return codes[: scaled.numel() + scaled.numel() % 2]


def best_ratios(scaled: torch.Tensor, absmax: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """Per block the first of the best ratios whose scale is finite, float32 [blocks]; 1 comes
    before all others.
    """
    blocks, counts = blocks_of(scaled, spec.block_size), _counts(scaled, spec)
    best = torch.ones(len(blocks), device=scaled.device)
    least = _errors(blocks, counts, best, spec)
    for value in spec.ratios:
        ratio = torch.full_like(best, value)
        error = _errors(blocks, counts, ratio, spec)
        better = (error < least) & (ratio * absmax).isfinite()
        best, least = torch.where(better, ratio, best), torch.where(better, error, least)
    return best


def best_nested(
    scaled: torch.Tensor,
    absmax: torch.Tensor,
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    spec: QuantSpec,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes of the scales, ratios): the best of each 8-bit scale and its two neighbours.

    parts: what double quantization made of the searched scales.
    """
    nearest, nested_absmax, offset = parts
    blocks, counts = blocks_of(scaled, spec.block_size), _counts(scaled, spec)
    values = dynamic_map(scaled.device)
    per_block = nested_absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: len(blocks)]
    floor = absmax.clamp(min=TINY)
    codes = nearest.long()
    best = (values[codes] * per_block + offset) / floor
    least = _errors(blocks, counts, best, spec)
    for step in (-1, 1):
        other = nearest.long() + step
        exists = (other >= 0) & (other < len(values))
        ratio = (values[other.clamp(0, len(values) - 1)] * per_block + offset) / floor
        error = _errors(blocks, counts, ratio, spec)
        better = exists & (error < least)
        codes, best = torch.where(better, other, codes), torch.where(better, ratio, best)
        least = torch.where(better, error, least)
    return codes.to(torch.uint8), best


def _errors(
    blocks: torch.Tensor, counts: torch.Tensor, ratios: torch.Tensor, spec: QuantSpec
) -> torch.Tensor:
    """Sum over each block of (x - nearest value * ratio)^2, [blocks]."""
    values = codebook(spec.format, blocks.device).sort().values
    nearest = values[_ranks(blocks * _inverse(ratios)[:, None], spec)]
    errors = blocks - nearest * ratios[:, None]
    squares = (errors * errors).view(len(blocks), spec.block_size // _NUM_SUMS, _NUM_SUMS)
    place = torch.arange(spec.block_size, device=blocks.device).view(-1, _NUM_SUMS)
    squares = torch.where(place < counts[:, None, None], squares, 0.0)
    sums = torch.zeros_like(squares[:, 0])
    for step in range(squares.shape[1]):
        sums = sums + squares[:, step]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def _counts(scaled: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """How many values each block has: the last may be short."""
    starts = torch.arange(0, scaled.numel(), spec.block_size, device=scaled.device)
    return (scaled.numel() - starts).clamp(max=spec.block_size)


def _inverse(ratios: torch.Tensor) -> torch.Tensor:
    """A scale of zero makes every value zero, whatever the codes."""
    return torch.where(ratios == 0, 0.0, 1.0 / ratios)


def _ranks(values: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The place of the nearest value in the sorted codebook, ties to the lower."""
    thresholds, _ = encoding(spec.format, values.device)
    return torch.bucketize(values, thresholds)


def _rank_of_zero(spec: QuantSpec, like: torch.Tensor) -> int:
    return int(_ranks(like.new_zeros(1), spec).item())
