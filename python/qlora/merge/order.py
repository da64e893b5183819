"""One order of the adapters, whatever order, names or gauge they come in.

Sums are rounded in the order they are made, and DARE gives each adapter its own masks: in this
order the result is the same to the bit for any order of the folders.
"""

import zlib
from collections.abc import Mapping, Sequence

import torch

from qlora_kernels.formats.adapter_folder import LayerFactors


def canonical_order(
    factors: Sequence[Mapping[str, LayerFactors]], weights: Sequence[float]
) -> list[int]:
    """Places sorted by (weight, fingerprint): adapters that tie in both are the same."""
    keys = [(weight, fingerprint(f)) for weight, f in zip(weights, factors, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def fingerprint(factors: Mapping[str, LayerFactors]) -> float:
    """Sum over the layers of `x^T (s B A) y + x^T magnitude`, x and y drawn by the layer's name.

    In float64. It depends on the product B A alone, so A -> R A, B -> B R^-1 leaves it as it is, up
    to rounding.
    """
    total = 0.0
    for name in sorted(factors):
        f = factors[name]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        x = torch.randn(f.b.shape[0], dtype=torch.float64, generator=generator)
        y = torch.randn(f.a.shape[1], dtype=torch.float64, generator=generator)
        total += f.scaling * float((x @ f.b.double()) @ (f.a.double() @ y))
        if f.magnitude is not None:
            total += float(x @ f.magnitude.double())
    return total
