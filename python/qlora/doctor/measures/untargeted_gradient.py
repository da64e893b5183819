"""Gradient that falls on linear layers without an adapter.

    G = dLoss/dW of each layer's full weight,    share = sum of |G|^2 without adapter / of all

at the end of training, on training examples (embeddings and a dense head are left out). Most of a
model's weights are feed-forward, so adapters on attention alone leave a large share outside even
where they suffice. Three numbers say more:

    untargeted_density    |G|^2 per weight without adapter / per weight with one
    untargeted_capturable share of all that adapters of the same rank could hold, if every layer had
                          one (the r best directions of each G), that falls on layers without
    untargeted_left       |G| there at the end / |G| there in the base

Where the task is learned all the same, what is left is small everywhere; where it is not, a large
share that has not shrunk says what other layers are being asked for. Energies of layers can be
compared, but AdamW does not step by them: it is no forecast of how fast such an adapter learns.
"""

from statistics import median_high

from qlora.doctor.facts import Fact
from qlora.doctor.measures.captured_gradient import Gradients, energy
from qlora.doctor.subject import Subject


def measure(subject: Subject) -> list[Fact]:
    """untargeted_gradient and what it is read with; 0 where every linear layer has an adapter."""
    adapted, end = subject.adapted, subject.gradients(tuned=True)
    outside = {name: gradient for name, gradient in end.items() if name not in adapted}
    inside = {name: gradient for name, gradient in end.items() if name in adapted}
    if not outside:
        detail = f"all {len(end)} linear layers have an adapter"
        return [Fact("untargeted_gradient", 0.0, detail=detail)]
    start = subject.gradients(tuned=False)
    lost, kept = energy(outside), energy(inside)
    share = lost / (lost + kept)
    ratio = density(outside) / density(inside)
    rank = median_high(gradient.rank for gradient in inside.values())
    capturable = _best(outside, rank) / (_best(outside, rank) + _best(inside, rank))
    left = (lost / sum(start[name].energy for name in outside)) ** 0.5
    detail = (
        f"{share:.0%} of the gradient falls on the {len(outside)} of {len(end)} linear layers"
        f" without an adapter, {ratio:.2g} times as much per weight; {capturable:.0%} of what rank"
        f" {rank} could follow is there, and it is {left:.2g} times the base's"
    )
    by_layer = {name: g.energy / (lost + kept) for name, g in outside.items()}
    return [
        Fact("untargeted_gradient", share, detail=detail, by_layer=by_layer),
        Fact("untargeted_density", ratio, detail=detail),
        Fact("untargeted_capturable", capturable, detail=detail),
        Fact("untargeted_left", left, detail=detail),
    ]


def density(gradients: Gradients) -> float:
    """|G|^2 per weight."""
    return energy(gradients) / sum(gradient.num_weights for gradient in gradients.values())


def _best(gradients: Gradients, rank: int) -> float:
    return sum(gradient.best_energy(rank) for gradient in gradients.values())
