"""One layer of all adapters: their updates as matrices in a basis that suits the method.

Every update is `left right (+ rest)`. In the standard basis its matrix is the dense [out, in]. The
core basis (arXiv 2509.17786) loses nothing and is small: with the QR decompositions

    [left_1 ... left_T] = U [L_1 ... L_T]      U [out, p] orthonormal
    [right_1; ...]^T    = V [R_1 ... R_T]      V [in, q] orthonormal

update i is U C_i V^T with the core C_i = L_i R_i^T [p, q]. Inner products, norms, sums and singular
values of cores are those of the updates; single entries and their signs are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Update:
    """dW = left right + rest: left [out, r] (scaling folded in), right [r, in], rest [out, in].

    rest is what no small factors hold (DoRA's change of W itself), None without it.
    """

    left: Tensor
    right: Tensor
    rest: Tensor | None = None

    def dense(self) -> Tensor:
        """The whole matrix, in float32, or float64 where the factors are."""
        return self.rows(slice(None))

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Some rows of the matrix."""
        product = self.left[rows] @ self.right
        return product if self.rest is None else product + self.rest[rows]


class DenseMatrices(Sequence[Tensor]):
    """The dense updates, each made when asked for: one is in memory at a time."""

    def __init__(self, updates: Sequence[Update]) -> None:
        self._updates = updates

    def __len__(self) -> int:
        return len(self._updates)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return DenseMatrices(self._updates[index])
        return self._updates[index].dense()


@dataclass(frozen=True, eq=False)
class Layer:
    """The updates of one layer: matrices[i] [p, q] of adapter i, in the basis (u, v).

    u [out, p] and v [in, q] have orthonormal columns; None is the identity. What a method makes of
    the matrices is a matrix in the same basis.
    """

    name: str
    weights: tuple[float, ...]
    matrices: Sequence[Tensor]
    u: Tensor | None = None
    v: Tensor | None = None

    def standard(self, updates: Sequence[Update]) -> "Layer":
        """The same layer with dense matrices."""
        return standard_layer(self.name, self.weights, updates)


def standard_layer(name: str, weights: tuple[float, ...], updates: Sequence[Update]) -> Layer:
    """The layer with dense matrices."""
    return Layer(name, weights, DenseMatrices(updates))


def core_layer(name: str, weights: tuple[float, ...], updates: Sequence[Update]) -> Layer:
    """The layer with cores in float64; dense where an update has a rest, which has no core."""
    if any(update.rest is not None for update in updates):
        return standard_layer(name, weights, updates)
    ranks = [update.left.shape[1] for update in updates]
    u, lefts = torch.linalg.qr(torch.cat([update.left for update in updates], 1).double())
    v, rights = torch.linalg.qr(torch.cat([update.right for update in updates]).double().T)
    pairs = zip(lefts.split(ranks, 1), rights.split(ranks, 1), strict=True)
    return Layer(name, weights, [left @ right.T for left, right in pairs], u, v)
