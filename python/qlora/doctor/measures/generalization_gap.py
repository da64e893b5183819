"""How much better the model does on what it was trained on.

    gap = loss on validation - loss on training,    both without dropout, per supervised token
    gap learned = gap of the tuned model - gap of the base

The gap's interval is a bootstrap over examples. Validation can be harder from the start, so the gap
alone does not prove overfitting: the part that training made is `gap_learned`, and what the base
has of it is drift (`drift_validation`). A run that memorises has both large; after one that learned
nothing, `gap_learned` is zero.
"""

import torch
from torch import Tensor

from qlora.doctor.facts import Fact
from qlora.doctor.resampling import bootstrap_totals, interval
from qlora.doctor.subject import Set, Subject
from qlora.doctor.token_losses import TokenLosses

SETS: tuple[Set, ...] = ("training", "validation")


def measure(subject: Subject) -> list[Fact]:
    """The four losses, generalization_gap and gap_learned."""
    tuned = [subject.losses(name, tuned=True) for name in SETS]
    base = [subject.losses(name, tuned=False) for name in SETS]
    seed = subject.budget.seed
    facts = [
        _loss_fact(prefix + name, losses, seed)
        for prefix, pair in (("", tuned), ("base_", base))
        for name, losses in zip(("training_loss", "validation_loss"), pair, strict=True)
    ]
    told = f"validation {tuned[1].mean:.3f}, training {tuned[0].mean:.3f}"
    was = f"the base's {base[1].mean:.3f} and {base[0].mean:.3f}"
    count = " and ".join(f"{len(t.sizes)} {name}" for t, name in zip(tuned, SETS, strict=True))
    detail = f"{told} nats a token, {was}; {count} examples"
    sums = [torch.cat([t.sums, b.sums], dim=1) for t, b in zip(tuned, base, strict=True)]
    totals = [s.sum(dim=0, keepdim=True) for s in sums]
    drawn = [bootstrap_totals(s, seed + place) for place, s in enumerate(sums)]
    fewest = min(map(len, sums))
    for name, formula in (("generalization_gap", gap), ("gap_learned", gap_learned)):
        value = float(formula(totals[0], totals[1]))
        facts.append(Fact(name, value, *interval(formula(drawn[0], drawn[1]), fewest), detail))
    return facts


def gap(training: Tensor, validation: Tensor) -> Tensor:
    """Validation - training loss, from totals [..., >= 2] of loss and tokens."""
    return validation[..., 0] / validation[..., 1] - training[..., 0] / training[..., 1]


def gap_learned(training: Tensor, validation: Tensor) -> Tensor:
    """The same - the base's, from totals [..., 4]: loss and tokens, tuned and of the base."""
    return gap(training, validation) - gap(training[..., 2:], validation[..., 2:])


def _loss_fact(name: str, losses: TokenLosses, seed: int) -> Fact:
    drawn = bootstrap_totals(losses.sums, seed)
    detail = f"{losses.mean:.3f} nats a token, {len(losses.loss)} tokens"
    return Fact(name, losses.mean, *interval(drawn[:, 0] / drawn[:, 1], len(losses.sizes)), detail)
