"""Code maps: the float32 value of each code, as bitsandbytes lays them out."""

import torch

from qlora_kernels.compat.bitsandbytes.errors import StateError
from qlora_kernels.formats.codebooks import codebook, linspace

# NF4 Isn't Information Theoretically Optimal (arXiv 2306.06965), the code for blocks of 64.
_AF4 = (
    1.0,
    0.72424863,
    0.55496234,
    0.42563882,
    0.31675666,
    0.21961274,
    0.12934483,
    0.04273164,
    0.0,
    -0.04934812,
    -0.14982478,
    -0.25607552,
    -0.3736951,
    -0.51243739,
    -0.69441008,
    -1.0,
)


def create_dynamic_map(
    signed: bool = True, max_exponent_bits: int = 7, total_bits: int = 8
) -> torch.Tensor:
    """For each decade 10^(i + 1 - max_exponent_bits): the midpoints of an even grid over [0.1, 1],
    twice as many as in the decade below; and 0 and 1. Float32, 256 sorted values.

    signed: both signs, from one bit of the code. total_bits: fewer than 8 leave zeros among the 256
    (8-bit optimizers, arXiv 2110.02861, section 1.3). Raises StateError, an AssertionError and a
    ValueError, for exponents that do not give 2^total_bits values.
    """
    fraction_bits = total_bits - 1 - max_exponent_bits
    grids = [2**i * 2.0 ** (fraction_bits + (not signed)) for i in range(max_exponent_bits)]
    decades = list(zip(range(1 - max_exponent_bits, 1), grids, strict=True))
    if fraction_bits > 0:
        decades.append((0, 2**fraction_bits - 1))
    values = [0.0, 1.0]
    for exponent, count in decades:
        grid = linspace(0.1, 1, int(count + 1))
        middles = 10.0**exponent * ((grid[:-1] + grid[1:]) / 2)
        values += middles.tolist()
        if signed:
            values += (-middles).tolist()
    if len(values) != 2**total_bits:
        raise StateError(
            f"create_dynamic_map: max_exponent_bits should give {2**total_bits} values in "
            f"{total_bits} bits, {max_exponent_bits} give {len(values)}"
        )
    return _filled(values)


def create_linear_map(
    signed: bool = True, total_bits: int = 8, add_zero: bool = True
) -> torch.Tensor:
    """An even grid over [-1, 1], or [0, 1] unsigned; float32, 256 values.

    add_zero: an odd number of signed values, so that 0 is one; so is it for fewer than 8 bits.
    """
    count = 2**total_bits - (signed and (add_zero or total_bits < 8))
    values = linspace(-1.0 if signed else 0.0, 1.0, count)
    half = count // 2
    return torch.cat([values[:half], torch.zeros(256 - count), values[half:]])


def create_normal_map(offset: float = 0.9677083, use_extra_value: bool = True) -> torch.Tensor:
    """Quantiles of the standard normal divided by the largest, NF4 by default; float32, 256 sorted
    values of which all but 15 (14 without the extra one, which is positive) are 0.

    offset: the outermost probability (QLoRA, arXiv 2305.14314, section 3).
    """
    steps = (9 if use_extra_value else 8, 8)
    upper, lower = (linspace(offset, 0.5, n).double()[:-1] for n in steps)
    quantiles = torch.cat([torch.special.ndtri(upper), -torch.special.ndtri(lower)])
    values = _filled(quantiles.tolist())
    return values / values.max()


def create_fp8_map(
    signed: bool = True, exponent_bits: int = 5, precision_bits: int = 2, total_bits: int = 8
) -> torch.Tensor:
    """Small floats, (1 + mantissa) * 2^-exponent beside subnormals, divided by the largest.

    Float32, 256 sorted values.

    Raises StateError, an AssertionError and a ValueError, if the bits do not add up.
    """
    if exponent_bits + precision_bits != total_bits - signed:
        raise StateError(
            "create_fp8_map: total_bits should be the sum of sign, exponent and precision bits, "
            f"was {total_bits}"
        )
    bias = 2 ** (exponent_bits - 1)
    mantissas = [i / 2**precision_bits for i in range(2**precision_bits)]
    values = [mantissa * 2.0**-bias for mantissa in mantissas]
    for exponent in range(1, 2**exponent_bits):
        values += [(1 + mantissa) * 2.0 ** (bias + 1 - exponent) for mantissa in mantissas]
    filled = _filled(values + [-value for value in values if signed])
    return filled / filled.max()


def get_4bit_type(
    typename: str, device: torch.device | str | None = None, blocksize: int = 64
) -> torch.Tensor:
    """The 16 values of "nf4", "fp4" or "af4" by code, float32 in [-1, 1].

    device: by default the GPU where there is one. Raises NotImplementedError for another name, and
    for af4 in blocks of other than 64.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if typename in ("nf4", "fp4"):
        return codebook(typename, torch.device("cpu")).to(device, copy=True)
    if typename == "af4" and blocksize == 64:
        return torch.tensor(_AF4, device=device)
    if typename == "af4":
        raise NotImplementedError(f"get_4bit_type: blocksize of af4 should be 64, was {blocksize}")
    raise NotImplementedError(
        f"get_4bit_type: typename should be nf4, fp4 or af4, was {typename!r}"
    )


def _filled(values: list[float]) -> torch.Tensor:
    """Sorted, with zeros up to 256 entries."""
    zeros = [0.0] * (256 - len(values))
    return torch.tensor(sorted(values + zeros), dtype=torch.float32)
