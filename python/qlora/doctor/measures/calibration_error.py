"""How far a model's confidence is from how often it is right.

    error = sum over bins b of n_b / n |accuracy_b - confidence_b|,    15 bins of equal width
    overconfidence = mean confidence - accuracy

over the supervised tokens; confidence is the largest probability, and right is the token that has
it (Guo et al., 2017, ECE). Pretrained models are nearly calibrated; memorising makes a model surer
on validation than it is right, which the loss there shows late. Both sets are told, so
that a model that is unsure everywhere is not mistaken for that. Intervals are bootstraps over
examples; the error itself cannot be negative, so few tokens make it too large.
"""

import torch
from torch import Tensor

from qlora.doctor.facts import Fact
from qlora.doctor.resampling import bootstrap_totals, interval
from qlora.doctor.subject import Set, Subject
from qlora.doctor.token_losses import TokenLosses

BINS = 15
SETS: tuple[Set, ...] = ("training", "validation")


def measure(subject: Subject) -> list[Fact]:
    """calibration_error_training and _validation, and overconfidence on validation."""
    facts = []
    for name in SETS:
        losses = subject.losses(name, tuned=True)
        sums = binned(losses)
        drawn = bootstrap_totals(sums.flatten(1), subject.budget.seed).unflatten(1, (BINS, 3))
        total, count = sums.sum(dim=0), len(sums)
        error, excess = float(calibration_error(total)), float(overconfidence(total))
        accuracy = float(losses.hit.double().mean())
        detail = (
            f"on {name} its first choice is right for {accuracy:.0%} of {len(losses.hit)} tokens,"
            f" and it gives it {accuracy + excess:.0%}: {abs(excess):.1%} too"
            f" {'sure' if excess > 0 else 'unsure'} on average, {error:.1%} off by confidence"
        )
        bounds = interval(calibration_error(drawn), count)
        facts.append(Fact(f"calibration_error_{name}", error, *bounds, detail))
    facts.append(Fact("overconfidence", excess, *interval(overconfidence(drawn), count), detail))
    return facts


def binned(losses: TokenLosses) -> Tensor:
    """Tokens, confidence and hits of each example in each bin, [n, 15, 3]."""
    bins = (losses.confidence * BINS).long().clamp(max=BINS - 1)
    values = torch.stack(
        [torch.ones_like(losses.confidence), losses.confidence, losses.hit.double()], dim=1
    )
    return losses.per_example(torch.nn.functional.one_hot(bins, BINS)[..., None] * values[:, None])


def calibration_error(totals: Tensor) -> Tensor:
    """`sum |hits - confidence| / tokens` of totals [..., 15, 3]."""
    return (totals[..., 2] - totals[..., 1]).abs().sum(-1) / totals[..., 0].sum(-1)


def overconfidence(totals: Tensor) -> Tensor:
    """`(confidence - hits) / tokens` of totals [..., 15, 3]."""
    return (totals[..., 1] - totals[..., 2]).sum(-1) / totals[..., 0].sum(-1)
