"""What a merge does to one layer, in numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qlora.merge.compress import Compressed
from qlora.merge.layer import Layer, Update

CONFLICT_ENTRIES = 2**20  # per adapter and layer: sign conflicts are counted in so many entries


@dataclass(frozen=True)
class LayerReport:
    """One layer; x_i = w_i t_i is what adapter i brings, m the merged update as it is written.

    norm = |merged|; energy = |m|^2 / |merged|^2; error = |merged - m| / |merged| (Frobenius).
    norms[i] = |t_i|; cosine[i][j] = <t_i, t_j> / (|t_i| |t_j|), 0 beside a zero update.
    interference = -2 sum of <x_i, x_j> over i < j / sum of |x_i|^2: the share of the energy that
    cancels when the updates are added. 1: all of it; 0: they are orthogonal; negative: they help
    each other. present[i] = <m, t_i> / |t_i|^2: how much of t_i is in the result (1: all of it).
    sign_conflict: share of the entries in which two x_i have opposite signs. mass = sum of |x_i|;
    minority_mass: the share of it that has the sign with the smaller mass, entry by entry. All
    three over `entries` entries: all of a small layer, else whole rows at even distances (mass
    scaled up).
    """

    name: str
    shape: tuple[int, int]
    rank: int
    norm: float
    energy: float
    error: float
    norms: tuple[float, ...]
    cosine: tuple[tuple[float, ...], ...]
    interference: float
    present: tuple[float, ...]
    sign_conflict: float
    minority_mass: float
    mass: float
    entries: int


def measure(layer: Layer, updates: tuple[Update, ...], result: Compressed) -> LayerReport:
    """Compare the result with the updates; `layer` is theirs in the core basis (or the standard).

    Inner products are exact: those of the cores.
    """
    gram = _gram(layer)
    norms = gram.diagonal().clamp(min=0.0).sqrt()
    lengths = norms.outer(norms)
    cosine = torch.where(lengths > 0, gram / lengths.clamp(min=1e-300), 0.0)
    weights = torch.tensor(layer.weights, dtype=torch.float64)
    weighted = gram * weights.outer(weights)
    own = float(weighted.diagonal().sum())
    present = [
        float(inner / square) if square > 0 else 0.0
        for inner, square in zip(_inner(layer, result), gram.diagonal(), strict=True)
    ]
    shape = result.left.shape[0], result.right.shape[1]
    conflict, mass, minority, entries = _conflicts(layer.weights, updates, shape)
    return LayerReport(
        name=layer.name,
        shape=shape,
        rank=result.rank,
        norm=result.norm,
        energy=result.energy,
        error=result.error,
        norms=tuple(norms.tolist()),
        cosine=tuple(map(tuple, cosine.tolist())),
        interference=0.0 if own == 0.0 else (own - float(weighted.sum())) / own,
        present=tuple(present),
        sign_conflict=conflict,
        minority_mass=minority / mass if mass > 0 else 0.0,
        mass=mass * shape[0] * shape[1] / entries,
        entries=entries,
    )


def _gram(layer: Layer) -> Tensor:
    """<t_i, t_j> for all pairs, float64 [adapters, adapters]."""
    count = len(layer.weights)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        first = layer.matrices[i].double()
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = (first * layer.matrices[j]).sum()
    return gram


def _inner(layer: Layer, result: Compressed) -> list[float]:
    """<m, t_i> of each adapter."""
    left, right = result.left.double(), result.right.double()
    if layer.u is not None and layer.v is not None:
        left, right = layer.u.T @ left, right @ layer.v
    merged = left @ right
    return [float((merged * matrix).sum()) for matrix in layer.matrices]


def _conflicts(
    weights: tuple[float, ...], updates: tuple[Update, ...], shape: tuple[int, int]
) -> tuple[float, float, float, int]:
    """Sign conflict, mass, mass of the smaller signs, and the number of entries looked at."""
    step = max(1, -(-shape[0] * shape[1] // CONFLICT_ENTRIES))
    rows = slice(None, None, step)
    positive = torch.zeros(len(range(shape[0])[rows]), shape[1])
    negative = torch.zeros_like(positive)
    for weight, update in zip(weights, updates, strict=True):
        part = weight * update.rows(rows)
        positive += part.clamp(min=0.0)
        negative -= part.clamp_(max=0.0)
    both = (positive > 0) & (negative > 0)
    mass = float((positive + negative).sum(dtype=torch.float64))
    minority = float(torch.minimum(positive, negative).sum(dtype=torch.float64))
    return float(both.double().mean()), mass, minority, both.numel()
