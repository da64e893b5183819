"""What is kept of the gradient G of a layer's full weight: enough for its energy, where it points
against the adapter, and how few directions hold most of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

import qlora_kernels as qk
from qlora.data import Example
from qlora.doctor.gradient_products import gradient_products
from qlora_kernels.formats import Adapter
from qlora_kernels.nn import QLoRALinear

# Columns that stand for all of G. A layer of no more inputs is measured exactly; energies of others
# are estimates that deviate by at most sqrt(2 / PROBES), an eighth, each; sums of many by far less.
PROBES = 128


@dataclass(frozen=True, eq=False)
class LayerGradient:
    """G [out, in] through probes R [in, c], whose `E[R R^T] = I`: |G R|^2 stands for |G|^2.

    seen: G R [out, c]; missed: (I - P_B) G (I - P_A) R, what the layer's adapter cannot express,
    None without one; rank: of the adapter, or 0; chance: the share of |G|^2 in random directions of
    that number; exact: whether c is the number of inputs.
    """

    seen: Tensor
    missed: Tensor | None
    rank: int
    chance: float
    exact: bool
    num_weights: int

    @property
    def energy(self) -> float:
        """|G|^2."""
        return _energy(self.seen)

    @property
    def missed_energy(self) -> float:
        """Of what the adapter cannot express; all of it without one."""
        return self.energy if self.missed is None else _energy(self.missed)

    def best_energy(self, rank: int) -> float:
        """Of the best `rank` directions: `sum of the largest sigma(G)^2`.

        An estimate finds the directions in one half of the probes and measures them with the other,
        else it would call noise a direction.
        """
        if self.exact:
            return float(torch.linalg.svdvals(self.seen.double())[:rank].square().sum())
        first, second = self.seen.double().chunk(2, dim=1)
        found = torch.linalg.svd(first, full_matrices=False).U[:, :rank]
        return min(2 * _energy(found.T @ second), self.energy)


def layer_gradients(
    model: PreTrainedModel, tuned: bool, examples: Sequence[Example], pad_id: int, seed: int
) -> dict[str, LayerGradient]:
    """Of every linear layer but a dense head, for the mean loss of the examples.

    tuned: whether adapters are on, which decides what DoRA's factors can express.
    """
    layers = qk.nn.quantized_layers(model)
    spans = {n: update_spans(m, tuned) for n, m in layers.items() if m.adapter is not None}
    columns = {name: probes(layer.in_features, seed) for name, layer in layers.items()}
    for name, (_, right) in spans.items():
        columns[name] = torch.cat([columns[name], right], dim=1)
    products = gradient_products(model, columns, examples, pad_id)
    return {n: _seen(layers[n], product, spans.get(n), seed) for n, product in products.items()}


def probes(size: int, seed: int) -> Tensor:
    """R [size, c] with orthogonal columns and `E[R R^T] = I`; c is 128 at most, and R R^T = I where
    it is the size.
    """
    return _probes(size, min(size, PROBES), seed)


def update_spans(layer: QLoRALinear, tuned: bool) -> tuple[Tensor, Tensor]:
    """Orthonormal bases (left [out, <= r], right [in, <= r]) of what an update can move.

    To first order the effective weight changes by `c s (dB A + B dA)`: rows in the span of A's,
    columns in that of `c B`'s, which is empty while B is zero. c is 1 but for DoRA that is on.
    """
    adapter = layer.adapter
    assert adapter is not None
    b = adapter.b.detach().float().cpu()
    if tuned and adapter.magnitude is not None:
        b = _output_scale(layer, adapter)[:, None] * b
    return _orthonormal(b), _orthonormal(adapter.a.detach().float().cpu().T)


def outside(seen: Tensor, along: Tensor, left: Tensor, cut: Tensor) -> Tensor:
    """`(I - P_B) G (I - P_A) R` from G R, G Q, the basis of B's columns, and Q^T R (Q A's rows)."""
    rest = seen - along @ cut
    return rest - left @ (left.T @ rest)


def _seen(
    layer: QLoRALinear, product: Tensor, spans: tuple[Tensor, Tensor] | None, seed: int
) -> LayerGradient:
    n, k = layer.out_features, layer.in_features
    r = probes(k, seed)
    product = product.double().cpu()
    seen, along = product[:, : r.shape[1]], product[:, r.shape[1] :]
    exact = r.shape[1] == k
    if spans is None:
        return LayerGradient(seen, None, 0, 0.0, exact, n * k)
    left, right = (basis.double() for basis in spans)
    missed = outside(seen, along, left, right.T @ r.double())
    chance = 1 - (1 - right.shape[1] / k) * (1 - left.shape[1] / n)
    assert layer.lora_a is not None
    return LayerGradient(seen, missed, layer.lora_a.shape[0], chance, exact, n * k)


@cache
def _probes(size: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, count, generator=generator))
    scaled: Tensor = (size / count) ** 0.5 * q * r.diagonal().sign()  # the signs make it uniform
    return scaled


def _output_scale(layer: QLoRALinear, adapter: Adapter) -> Tensor:
    """c [out] of DoRA: magnitude / norm."""
    assert adapter.magnitude is not None
    norm: Tensor = qk.dora_column_norm(layer.base, adapter).detach().float()
    scale = adapter.magnitude.detach().float() / norm
    kept: Tensor = torch.where(norm > 0, scale, 1.0)
    return kept.cpu()


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span, without what only rounding put there: [rows, rank]."""
    u, sigma, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    least = sigma.max() * max(columns.shape) * torch.finfo(torch.float32).eps
    basis: Tensor = u[:, sigma > least].float()
    return basis


def _energy(matrix: Tensor) -> float:
    return float(matrix.double().square().sum())
