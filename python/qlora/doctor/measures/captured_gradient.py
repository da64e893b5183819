"""What of the gradient of the full weights the adapters can follow.

    G = dLoss/dW,    captured = 1 - |(I - P_B) G (I - P_A)|^2 / |G|^2

P_A projects on the rows of A, P_B on the columns of B (of c B for DoRA, whose magnitudes, one
number an output, do not count): to first order an adapter moves W by `s (dB A + B dA)`, all of it
in there. Summed over the adapted layers; `by_layer` has each. Five numbers:

    captured_gradient        at the end of training, on training examples
    captured_gradient_start  the same directions against the gradient of the base
    captured_by_chance       what random directions would hold: 1 - (1 - r / in) (1 - r' / out)
    capturable_gradient      at the end: what the r best new directions hold (top r of G)
    gradient_left            |G| at the end / |G| of the base

Where training has converged inside the adapters' directions, G is at right angles to them
(`B^T G = 0` and `G A^T = 0`), so captured_gradient is near zero or chance in every run that ran to
its end: it is how much is left for *these* directions. Together the numbers tell runs apart: much
captured and much left asks for more or larger steps; little captured, much left, and much of it
capturable asks for more rank. While B is zero (nothing was trained) only A's random rows count,
and captured is chance. To first order means: none of it says how far a direction can be followed;
gradients of a sample hold its noise, which no adapter should follow.
"""

from collections.abc import Mapping

from qlora.doctor.facts import Fact
from qlora.doctor.gradients import LayerGradient
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError

Gradients = Mapping[str, LayerGradient]


def measure(subject: Subject) -> list[Fact]:
    """captured_gradient and the numbers that it is read with."""
    adapted = subject.adapted
    end, start = (
        {name: g for name, g in subject.gradients(tuned).items() if name in adapted}
        for tuned in (True, False)
    )
    captured, before, chance = captured_share(end), captured_share(start), chance_share(end)
    best, left = capturable_share(end), (energy(end) / energy(start)) ** 0.5
    detail = (
        f"adapters can follow {captured:.1%} of the gradient that their {len(end)} layers have left"
        f" (random directions: {chance:.1%}, the best new ones: {best:.0%}), which is {left:.2g}"
        f" times the base's; of the base's they hold {before:.0%}"
    )
    by_layer = {name: 1 - g.missed_energy / g.energy for name, g in end.items() if g.energy}
    return [
        Fact("captured_gradient", captured, detail=detail, by_layer=by_layer),
        Fact("captured_gradient_start", before, detail=detail),
        Fact("captured_by_chance", chance, detail=detail),
        Fact("capturable_gradient", best, detail=detail),
        Fact("gradient_left", left, detail=detail),
    ]


def energy(gradients: Gradients) -> float:
    """|G|^2 over all layers; InputError where there is no gradient at all."""
    total = sum(gradient.energy for gradient in gradients.values())
    if not total:
        raise InputError("training examples should give the layers a gradient, gave none")
    return total


def captured_share(gradients: Gradients) -> float:
    """`1 - |(I - P_B) G (I - P_A)|^2 / |G|^2` over all layers."""
    return 1 - sum(g.missed_energy for g in gradients.values()) / energy(gradients)


def chance_share(gradients: Gradients) -> float:
    """What as many random directions would hold."""
    return sum(g.chance * g.energy for g in gradients.values()) / energy(gradients)


def capturable_share(gradients: Gradients) -> float:
    """What the best directions hold, as many in each layer as its adapter's rank."""
    return sum(g.best_energy(g.rank) for g in gradients.values()) / energy(gradients)
