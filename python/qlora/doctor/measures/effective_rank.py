"""How many of an adapter's directions the update uses.

    s B A = U diag(sigma) V^T,    p_i = sigma_i^2 / sum sigma^2
    effective rank = exp(-sum p_i log p_i),    stable rank = sum sigma^2 / max sigma^2

Both go from 1 (one direction does it all) to the rank (all equally), and are told as a share of it.
A share near 1 says that every direction is used and a higher rank would find work; a low one that
the rank is not what holds the run back. Neither says whether what was learned is right.

With B = Q_b R_b and A^T = Q_a R_a the sigmas are those of `s R_b R_a^T` [rank, rank], so nothing
dense is formed (Roy and Vetterli, 2007, with energies for p; the QR keeps small sigmas, which a
product of Gram matrices would square away). DoRA: of s B A, before its magnitudes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from qlora.doctor.facts import Fact
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError
from qlora_kernels.formats import Adapter


def measure(subject: Subject) -> list[Fact]:
    """effective_rank and stable_rank: means over the layers whose update is not zero."""
    sigmas = {name: of_adapter(layer.adapter) for name, layer in subject.adapted.items()}
    moved = {name: sigma for name, sigma in sigmas.items() if sigma.any()}
    if not moved:
        raise InputError(f"the updates s B A should not all be zero, all {len(sigmas)} are")
    return [
        _fact("effective_rank", {n: effective_rank(s) for n, s in moved.items()}, moved),
        _fact("stable_rank", {n: stable_rank(s) for n, s in moved.items()}, moved),
    ]


def of_adapter(adapter: Adapter | None) -> Tensor:
    """Singular values of s B A, [rank], float64; zeros where the rank exceeds a side."""
    assert adapter is not None
    a, b = adapter.a.detach().double().cpu(), adapter.b.detach().double().cpu()
    right = torch.linalg.qr(a.T, mode="r").R  # [min(in, rank), rank]
    left = torch.linalg.qr(b, mode="r").R  # [min(out, rank), rank]
    sigma = torch.linalg.svdvals(adapter.scaling * left @ right.T)
    return torch.nn.functional.pad(sigma, (0, adapter.rank - len(sigma)))


def effective_rank(sigma: Tensor) -> float:
    """`exp(entropy of sigma^2 / sum sigma^2)`, between 1 and the number of sigmas."""
    shares = sigma.square() / sigma.square().sum()
    return float(torch.special.entr(shares).sum().exp())


def stable_rank(sigma: Tensor) -> float:
    """`sum sigma^2 / max sigma^2`, between 1 and the number of sigmas."""
    return float(sigma.square().sum() / sigma.square().max())


def _fact(name: str, ranks: Mapping[str, float], sigmas: Mapping[str, Tensor]) -> Fact:
    shares = {layer: rank / len(sigmas[layer]) for layer, rank in ranks.items()}
    mean = sum(ranks.values()) / len(ranks)
    full = sum(map(len, sigmas.values())) / len(sigmas)
    detail = (
        f"updates of {len(ranks)} layers use {mean:.1f} of {full:.4g} directions on average,"
        f" between {min(shares.values()):.0%} and {max(shares.values()):.0%}"
    )
    return Fact(name, sum(shares.values()) / len(shares), detail=detail, by_layer=shares)
