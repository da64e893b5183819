"""8-bit states: one code of a dynamic map per value, one float32 absmax per block of 256.

    value = map[code] * absmax[block]
    code  = the nearest map entry to value * (1 / absmax), in float32; ties to the lower code

but without signs only 0 itself takes the code of 0: what is above it takes at least the next. An
update divides by the root of exp_avg_sq. Rounded up to the smallest entry an update can only become
smaller; rounded to 0 it would be lr * exp_avg / eps wherever the next gradient is 0.

exp_avg has signs and takes the signed map, exp_avg_sq the unsigned one (8-bit optimizers, arXiv
2110.02861). A block whose largest value is below the smallest normal float32 is stored as zeros:
its reciprocal would be infinite.
"""

from functools import cache

import torch

from qlora_kernels.formats.codebooks import dynamic_map

BLOCK = 256  # values per absmax
TINY = torch.finfo(torch.float32).tiny  # the smallest normal number


def num_blocks(size: int) -> int:
    """How many blocks hold `size` values; the last may be short."""
    return -(-size // BLOCK)


def zero_code(signed: bool) -> int:
    """The code of 0: what an untouched state is filled with, under an absmax of 0."""
    return int(dynamic_map(torch.device("cpu"), signed).tolist().index(0.0))


@cache
def thresholds(device: torch.device, signed: bool) -> torch.Tensor:
    """255 float64 midpoints: `code = number of thresholds strictly below the scaled value`.

    Without signs the first is 0: whatever is above it is not stored as 0.
    """
    values = dynamic_map(device, signed).double()
    middles = (values[:-1] + values[1:]) / 2
    if not signed:
        middles[0] = 0.0
    return middles


def encode(values: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes uint8 [n], absmax float32 [ceil(n / 256)]) of flat finite values [n]."""
    size = values.numel()
    padded = torch.nn.functional.pad(values.float(), (0, -size % BLOCK)).view(-1, BLOCK)
    absmax = padded.abs().amax(dim=1)
    absmax = torch.where(absmax < TINY, 0.0, absmax)
    scaled = torch.where(absmax == 0, 0.0, padded.T * (1 / absmax)).T  # [blocks, 256]
    # Compared in float64, where midpoints are exact, so that a tie is a tie.
    codes = torch.bucketize(scaled.double(), thresholds(values.device, signed))
    return codes.to(torch.uint8).view(-1)[:size], absmax


def decode(codes: torch.Tensor, absmax: torch.Tensor, signed: bool) -> torch.Tensor:
    """The values [n] of codes [n], float32."""
    scales = absmax.repeat_interleave(BLOCK)[: codes.numel()]
    return dynamic_map(codes.device, signed)[codes.long()] * scales
