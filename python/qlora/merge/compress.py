"""A merged matrix back to two factors, with as many directions as asked for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qlora.merge.layer import Layer
from qlora.merge.rank import choose_rank, fixed_rank

OVERSAMPLING, POWER_STEPS = 16, 4  # of the randomised range finder (arXiv 0909.4061)
EXACT_BELOW = 1024  # smaller matrices are decomposed exactly whatever rank is asked for


@dataclass(frozen=True, eq=False)
class Compressed:
    """left right ~ merged: left [out, r], right [r, in], float32.

    energy: |left right|^2 / |merged|^2, 1 for a zero matrix; norm: |merged|. As left right is a
    projection of merged, the relative Frobenius error is sqrt(1 - energy).
    """

    left: Tensor
    right: Tensor
    energy: float
    norm: float

    @property
    def rank(self) -> int:
        """Columns of left."""
        return self.left.shape[1]

    @property
    def error(self) -> float:
        """|merged - left right| / |merged|."""
        return math.sqrt(max(0.0, 1.0 - self.energy))


def compress(merged: Tensor, layer: Layer, rank: str) -> Compressed:
    """The truncated singular value decomposition of `merged`, a matrix in the basis of `layer`.

    Exact for cores, for matrices with a side under 1024, and where the spectrum decides the rank;
    else a randomised range finder with power steps. The energy is exact for what is returned.
    """
    number = fixed_rank(rank)
    total = _energy(merged)
    if number is not None and min(merged.shape) >= EXACT_BELOW > 4 * number:
        basis, energies = _sketch(merged, number)
    else:
        basis, energies = _left_directions(merged)
    chosen = choose_rank(rank, energies)
    left = basis[:, :chosen]  # [p, r], orthonormal
    right = left.T @ merged.to(left.dtype)  # [r, q]
    kept = _energy(right)
    scale = right.norm(dim=1).clamp(min=torch.finfo(right.dtype).tiny).sqrt()
    left, right = left * scale, right / scale[:, None]
    if layer.u is not None and layer.v is not None:
        left, right = layer.u @ left, right @ layer.v.T
    energy = 1.0 if total == 0.0 else min(1.0, kept / total)
    return Compressed(
        left.float().contiguous(), right.float().contiguous(), energy, norm=total**0.5
    )


def _left_directions(matrix: Tensor) -> tuple[Tensor, list[float]]:
    """All left singular vectors and squared singular values, the largest first, in float64.

    Small matrices by a singular value decomposition; larger ones by the eigenvectors of a Gram
    matrix, whose float64 leaves singular values above 1e-8 of the largest: float32 holds no more.
    """
    wide = matrix.double()
    if max(wide.shape) <= EXACT_BELOW // 2:
        vectors, values, _ = torch.linalg.svd(wide, full_matrices=False)
        return vectors, values.square().tolist()
    if wide.shape[0] <= wide.shape[1]:
        energies, vectors = torch.linalg.eigh(wide @ wide.T)
        return vectors.flip(1), energies.flip(0).clamp(min=0.0).tolist()
    energies, vectors = torch.linalg.eigh(wide.T @ wide)
    directions, _ = torch.linalg.qr(wide @ vectors.flip(1))  # ordered by singular value
    return directions, energies.flip(0).clamp(min=0.0).tolist()


def _sketch(matrix: Tensor, rank: int) -> tuple[Tensor, list[float]]:
    """The left singular vectors that a random probe finds, by the same seed for every layer."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(matrix.shape[1], rank + OVERSAMPLING, generator=generator)
    basis, _ = torch.linalg.qr(matrix @ probe.to(matrix))
    for _ in range(POWER_STEPS):
        back, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ back)
    inner, values, _ = torch.linalg.svd((basis.T @ matrix).double(), full_matrices=False)
    return (basis.double() @ inner).to(matrix), values.square().tolist()


def _energy(matrix: Tensor) -> float:
    """|matrix|^2, summed in float64."""
    norm: Tensor = torch.linalg.vector_norm(matrix, dtype=torch.float64)
    return norm.item() ** 2
