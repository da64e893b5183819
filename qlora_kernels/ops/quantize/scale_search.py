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


class Search:
    """The blocks of a weight, and which scale is the best of each.

    scaled: the values divided by their block's absmax [blocks]. importance: by column, or None.
    """

    def __init__(
        self,
        scaled: torch.Tensor,
        absmax: torch.Tensor,
        spec: QuantSpec,
        importance: torch.Tensor | None,
    ) -> None:
        """A short last block is filled up with zeros."""
        self.absmax, self.spec = absmax, spec
        self.blocks = blocks_of(scaled, spec.block_size)
        starts = torch.arange(0, scaled.numel(), spec.block_size, device=scaled.device)
        self.counts = scaled.numel() - starts  # values of each block; the last may be short
        self.importance = None
        if importance is not None:
            rows = scaled.numel() // max(1, importance.numel())
            self.importance = blocks_of(importance.repeat(rows), spec.block_size)

    def best_ratios(self) -> torch.Tensor:
        """Per block the first of the best ratios whose scale is finite, float32 [blocks]; 1 comes
        before all others.
        """
        best = torch.ones(len(self.blocks), device=self.blocks.device)
        least = self._errors(best)
        for value in self.spec.ratios:
            ratio = torch.full_like(best, value)
            error = self._errors(ratio)
            better = (error < least) & (ratio * self.absmax).isfinite()
            best, least = torch.where(better, ratio, best), torch.where(better, error, least)
        return best

    def best_nested(
        self, parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(codes of the scales, ratios): the best of each 8-bit scale and its two neighbours.

        parts: what double quantization made of the searched scales.
        """
        nearest, nested_absmax, offset = parts
        values = dynamic_map(self.blocks.device)
        per_block = nested_absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: len(self.blocks)]
        floor = self.absmax.clamp(min=TINY)
        codes = nearest.long()
        best = (values[codes] * per_block + offset) / floor
        least = self._errors(best)
        for step in (-1, 1):
            other = nearest.long() + step
            exists = (other >= 0) & (other < len(values))
            ratio = (values[other.clamp(0, len(values) - 1)] * per_block + offset) / floor
            error = self._errors(ratio)
            better = exists & (error < least)
            codes, best = torch.where(better, other, codes), torch.where(better, ratio, best)
            least = torch.where(better, error, least)
        return codes.to(torch.uint8), best

    def _errors(self, ratios: torch.Tensor) -> torch.Tensor:
        """Sum over each block of importance (x - nearest value * ratio)^2, [blocks]."""
        blocks, size = self.blocks, self.spec.block_size
        values = codebook(self.spec.format, blocks.device).sort().values
        nearest = values[_ranks(blocks * _inverse(ratios)[:, None], self.spec)]
        errors = blocks - nearest * ratios[:, None]
        squares = errors * errors
        if self.importance is not None:
            squares = squares * self.importance
        squares = squares.view(len(blocks), size // _NUM_SUMS, _NUM_SUMS)
        place = torch.arange(size, device=blocks.device).view(-1, _NUM_SUMS)
        squares = torch.where(place < self.counts[:, None, None], squares, 0.0)
        sums = torch.zeros_like(squares[:, 0])
        for step in range(squares.shape[1]):
            sums = sums + squares[:, step]
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
        return sums[:, 0]


def _inverse(ratios: torch.Tensor) -> torch.Tensor:
    """A scale of zero makes every value zero, whatever the codes."""
    return torch.where(ratios == 0, 0.0, 1.0 / ratios)


def _ranks(values: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The place of the nearest value in the sorted codebook, ties to the lower."""
    thresholds, _ = encoding(spec.format, values.device)
    return torch.bucketize(values, thresholds)


def _rank_of_zero(spec: QuantSpec, like: torch.Tensor) -> int:
    return int(_ranks(like.new_zeros(1), spec).item())
