"""What the base lost by being quantized, on what really flows through it.

    error of a layer = |x (W - W4)^T| / |x W^T|,  x: its inputs while the base reads training data
    loss             = 1 - p4 / p16,  p = exp(-loss)  of the base's tokens, quantized and dense

W is read from the model folder, W4 is what it became. Gaussian weights lose 0.09 in NF4, outputs
about as much where inputs are spread evenly; a layer far above the others has weights or inputs
that a common scale serves badly: it is the one to keep in int8 or 16 bits. p is the geometric mean
of the probabilities that the base gives the right tokens, so `loss` says how much worse it starts,
not what adapters, which were trained on W4, have made good. Both over about a thousand tokens.
"""

from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import qlora_kernels as qk
from qlora.doctor.dense_base import DenseWeights, dense_layers
from qlora.doctor.facts import Fact
from qlora.doctor.resampling import bootstrap_totals, interval
from qlora.doctor.samples import Budget, sample
from qlora.doctor.subject import Subject
from qlora.doctor.token_losses import token_losses
from qlora_kernels.nn import QLoRALinear

TOKENS = 1_024  # every layer is read from its file for each batch of them
WORST = 3


def measure(subject: Subject) -> list[Fact]:
    """quantization_error, the median of the layers, and quantization_loss."""
    layers = {name: layer for name, layer in subject.layers.items() if layer.format != "none"}
    if not layers:
        return [Fact("quantization_error", 0.0, detail="the base is not quantized")]
    weights = DenseWeights(subject.settings.model, subject.model)
    budget = Budget(min(TOKENS, subject.budget.tokens), subject.budget.seed)
    examples = sample(subject.every_example("training"), budget)
    sums: dict[str, Tensor] = {}
    hooks = [m.register_forward_hook(_adding(n, weights, sums)) for n, m in layers.items()]
    with qk.nn.disable_adapters(subject.model):
        try:
            quantized = token_losses(subject.model, examples, subject.pad_id)
        finally:
            for hook in hooks:
                hook.remove()
        with dense_layers(layers, weights):
            dense = token_losses(subject.model, examples, subject.pad_id)
    errors = {name: relative_error(total) for name, total in sums.items()}
    both = torch.cat([quantized.sums, dense.sums], dim=1)
    drawn = bootstrap_totals(both, subject.budget.seed)
    lost = float(probability_lost(both.sum(0)))
    detail = (
        f"the {subject.settings.format} base gives the right tokens of training examples"
        f" {lost:.1%} less probability than the dense one ({quantized.mean:.3f} nats, not"
        f" {dense.mean:.3f})"
    )
    return [
        Fact("quantization_error", median(errors.values()), detail=_told(errors), by_layer=errors),
        Fact("quantization_loss", lost, *interval(probability_lost(drawn), len(both)), detail),
    ]


def relative_error(sums: Tensor) -> float:
    """`|x (W - W4)^T| / |x W^T|` from their squares [2]; 0 for a layer that gives zeros."""
    error, whole = sums.tolist()
    return (error / whole) ** 0.5 if whole else 0.0


def probability_lost(totals: Tensor) -> Tensor:
    """`1 - p4 / p16`, from totals [..., 4]: quantized loss and tokens, dense loss and tokens."""
    difference = totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3]
    return -torch.expm1(-difference)


def squares(x: Tensor, weight: Tensor, quantized: Tensor) -> Tensor:
    """|x (W - W4)^T|^2 and |x W^T|^2 for x [..., in]: [2], float64."""
    outputs = (x @ (weight - quantized).T, x @ weight.T)
    return torch.stack([y.double().square().sum() for y in outputs]).cpu()


def _adding(name: str, weights: DenseWeights, sums: dict[str, Tensor]) -> Any:
    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, QLoRALinear)
        weight, quantized = weights.weight(name, module), module.dequantize().float()
        with torch.autocast(weight.device.type, enabled=False):
            total = squares(inputs[0].float(), weight, quantized)
        sums[name] = sums[name] + total if name in sums else total

    return add


def _told(errors: dict[str, float]) -> str:
    worst = sorted(errors, key=errors.__getitem__, reverse=True)[:WORST]
    named = ", ".join(f"{name} {errors[name]:.1%}" for name in worst)
    return f"layers' outputs err by {median(errors.values()):.1%} (median), most {named}"
