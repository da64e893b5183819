"""What the bits of a code mean: the one place where the codebooks are written down.

A 4-bit format is a codebook of 16 values in [-1, 1]; `value = codebook[code] * scale`. Every
kernel of every backend gets these numbers from here.
"""

from dataclasses import dataclass
from functools import cache

import torch

# Quantiles of the standard normal, scaled to [-1, 1] (QLoRA, arXiv 2305.14314, appendix E).
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)

# Bit 3 is the sign (code 8 is a second zero), the other three choose a magnitude in twelfths.
_FP4_TWELFTHS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = tuple(v / 12 for v in _FP4_TWELFTHS) + tuple(-v / 12 if v else 0.0 for v in _FP4_TWELFTHS)

# Found together with a signed scale per block, which mirrors the codebook where that is nearer:
# least squared error on blocks of 64 normal and Student-t (8 degrees of freedom) values under the
# scales of `scale_ratios`. bench/codebook.py finds these numbers again.
NF4_TUNED = (
    -0.886436,
    -0.677668,
    -0.5224,
    -0.39651,
    -0.288616,
    -0.193316,
    -0.105954,
    -0.023748,
    0.055981,
    0.136874,
    0.221904,
    0.314925,
    0.422053,
    0.550102,
    0.716331,
    1.0,
)


@dataclass(frozen=True)
class Format:
    """A storage format of weights: its bits per code, and its codebook if it has one.

    signed: a block's scale may be negative, and is always searched.
    """

    name: str
    bits: int
    codebook: tuple[float, ...] | None
    signed: bool = False

    @property
    def codes_per_byte(self) -> int:
        """How many codes one byte of storage holds."""
        return 8 // self.bits


FORMATS = {
    f.name: f
    for f in (
        Format("nf4", 4, NF4),
        Format("fp4", 4, FP4),
        Format("int8", 8, None),
        Format("nf4-tuned", 4, NF4_TUNED, signed=True),
    )
}
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK_SIZE = 256
INT8_MAX = 127


@cache
def codebook(format_name: str, device: torch.device) -> torch.Tensor:
    """The 16 values of a 4-bit format, float32, in order of their codes."""
    values = FORMATS[format_name].codebook
    assert values is not None, f"{format_name} has no codebook"
    return torch.tensor(values, dtype=torch.float32, device=device)


@cache
def encoding(format_name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(thresholds [15], order [16]): `code = order[number of thresholds strictly below x]`.

    Thresholds are the midpoints of the sorted codebook, so an exact tie takes the lower value.
    """
    values = codebook(format_name, torch.device("cpu"))
    order = torch.argsort(values, stable=True)
    ordered = values[order]
    thresholds = (ordered[:-1] + ordered[1:]) / 2
    return thresholds.to(device), order.to(torch.uint8).to(device)


@cache
def scale_ratios(format_name: str) -> tuple[float, ...]:
    """The multiples of absmax that a search tries as a scale of a block: 20/64, 21/64, ... 100/64.

    Below 1 the largest values are clipped, which long blocks want; above 1 they take a code below
    the last. A signed format tries the negative ones too.
    """
    ratios = tuple(i / 64 for i in range(20, 101))
    return ratios + tuple(-r for r in ratios) if FORMATS[format_name].signed else ratios


def linspace(first: float, last: float, count: int) -> torch.Tensor:
    """`count` values from `first` to `last` in even steps, float32, the same on each machine.

    Each is rounded once from the float32 ends and step, counted from the nearer end: bit for bit
    what torch.linspace gives where it has AVX2 or AVX-512. Elsewhere torch rounds twice.
    """
    ends = torch.tensor([first, last], dtype=torch.float32, device="cpu")
    if count == 1:
        return ends[:1]
    step = ((ends[1] - ends[0]) / (count - 1)).double()
    start, stop = ends.double()
    steps = step * torch.arange(count, device="cpu")  # exact in float64, and so are the sums
    half = count // 2
    return torch.cat([start + steps[:half], stop - steps[: count - half].flip(0)]).float()


@cache
def dynamic_map(device: torch.device, signed: bool = True) -> torch.Tensor:
    """A dynamic 8-bit map: 256 sorted float32 values in (-1, 1], or in [0, 1] if unsigned.

    For each decade 10^(i-6), i = 0..6: the midpoints of an even grid over [0.1, 1], 2^i of both
    signs or 2^(i+1) of one; and 0 and 1 (8-bit optimizers, arXiv 2110.02861, section 1.3).
    """
    values = [0.0, 1.0]
    for i in range(7):
        grid = linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        middles = (10.0 ** (i - 6)) * ((grid[:-1] + grid[1:]) / 2)
        values += middles.tolist() + ((-middles).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


def is_map(stored: torch.Tensor, ours: torch.Tensor) -> bool:
    """Whether a stored map is ours, but for the last bits of its values.

    bitsandbytes stores the map that torch.linspace gave where a file was written, and other
    processors give other last bits. Codes of such a map are read as codes of ours, with errors that
    small, as other loaders read them.
    """
    stored = stored.to(ours.device, torch.float32)
    return stored.shape == ours.shape and torch.allclose(stored, ours, rtol=1e-6, atol=0.0)
