"""Whether the rows of the step at which the loss jumped are unlike the others.

    z = (mean of their base losses - mean over other examples) / (deviation of those / sqrt(n))

n examples at the jump, base loss per example in nats a token. Rows that do not belong to the data
surprise the base, which nothing has trained; where it finds them as easy as any, the jump came from
the training. Nothing is measured for a loss that never jumped.
"""

import math

import torch

from qlora.doctor.curves.jumps import largest_jump
from qlora.doctor.facts import Fact
from qlora.doctor.readers import read_curves
from qlora.doctor.subject import Subject
from qlora.doctor.token_losses import TokenLosses, token_losses
from qlora_kernels.errors import InputError


def measure(subject: Subject) -> list[Fact]:
    """jump_rows_z."""
    step = largest_jump(read_curves(subject.run).training.finite)
    if step is None:
        return []
    chosen = subject.examples_of_step(int(step))
    theirs = subject.once(
        "jump", tuned=False, compute=lambda: token_losses(subject.model, chosen, subject.pad_id)
    )
    others = subject.losses("training", tuned=False)
    z = surprise(theirs, others)
    detail = (
        f"the base finds the {len(chosen)} examples of step {step:.0f} at"
        f" {_means(theirs).mean():.2f} nats a token, others at {_means(others).mean():.2f}"
        f" ({z:+.1f} deviations)"
    )
    return [Fact("jump_rows_z", z, detail=detail)]


def surprise(theirs: TokenLosses, others: TokenLosses) -> float:
    """z of the mean loss of examples against others; InputError for fewer than two others."""
    means, usual = _means(theirs), _means(others)
    if len(usual) < 2:
        raise InputError(f"other examples should be two or more, was {len(usual)}")
    deviation = float(usual.std()) / math.sqrt(len(means))
    return float(means.mean() - usual.mean()) / max(deviation, 1e-9)


def _means(losses: TokenLosses) -> torch.Tensor:
    """Loss a token of each example that has labels."""
    sums, tokens = losses.sums.unbind(1)
    return sums[tokens > 0] / tokens[tokens > 0]
