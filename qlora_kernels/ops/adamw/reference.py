"""`adamw_step` and `gradient_gate` in plain torch: in the fused torch.optim.AdamW's order."""

from collections.abc import Sequence
from math import sqrt

import torch

from qlora_kernels.formats.blockwise8 import decode, encode
from qlora_kernels.ops.adamw.segment import Gate, Hyperparameters, Segment

BACKEND = "reference"


def refuses(*arguments: object) -> str | None:
    """Runs everything."""
    return None


def squared_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares, float64 []: finite exactly where every gradient is."""
    # Squares of float32 are exact in float64, and far from its limits.
    return torch.stack([g.double().square().sum() for g in gradients]).sum()


def adamw_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """The formula of op.py, a segment at a time."""
    if gate.skip != 0:
        return
    for segment, gradient, h in zip(segments, gradients, hyper, strict=True):
        _update(segment, gradient.view(-1).float() * gate.scale, h)


def _update(segment: Segment, g: torch.Tensor, h: Hyperparameters) -> None:
    t = segment.step.item()
    weight = segment.parameter if segment.master is None else segment.master
    m, v = _states(segment)
    m = m.lerp(g, 1 - h.beta1)
    v = (v * h.beta2).addcmul(g, g, value=1 - h.beta2)
    # torch.sqrt of float32 is a vendor's and may err; a rounded root of double does not.
    denominator = v.double().sqrt().float() / sqrt(1 - h.beta2**t) + h.eps
    p = weight.float() * (1 - h.lr * h.weight_decay)
    weight.copy_(p.addcdiv(m, denominator, value=-h.lr / (1 - h.beta1**t)))
    if segment.master is not None:
        segment.parameter.copy_(segment.master)
    _keep(segment, m, v)


def _states(segment: Segment) -> tuple[torch.Tensor, torch.Tensor]:
    m, v = segment.exp_avg, segment.exp_avg_sq
    if segment.exp_avg_absmax is None or segment.exp_avg_sq_absmax is None:
        return m, v
    m = decode(m, segment.exp_avg_absmax, signed=True)
    return m, decode(v, segment.exp_avg_sq_absmax, signed=False)


def _keep(segment: Segment, m: torch.Tensor, v: torch.Tensor) -> None:
    if segment.exp_avg_absmax is None or segment.exp_avg_sq_absmax is None:
        segment.exp_avg.copy_(m)
        segment.exp_avg_sq.copy_(v)
        return
    for values, signed, codes, absmax in (
        (m, True, segment.exp_avg, segment.exp_avg_absmax),
        (v, False, segment.exp_avg_sq, segment.exp_avg_sq_absmax),
    ):
        found = encode(values, signed)
        codes.copy_(found[0])
        absmax.copy_(found[1])
