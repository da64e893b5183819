"""One AdamW step over n tensors of k elements each; formats name the states.

`8bit` and `32bit` are our optimizer without and with 32-bit states, `paged8bit` is the former with
a memory budget of a quarter of its states. No gradient is checked or clipped, as nobody else does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

import qlora_kernels as qk
from bench.kernels.case import DTYPE_NAMES, Call, Case, Cost, Expected
from qlora_kernels.errors import InputError
from qlora_kernels.formats.blockwise8 import encode

TRAFFIC = "update"
FORMATS = ("8bit", "32bit", "paged8bit")
# 1 - lr * weight_decay is a float32: rounded, it would bias every parameter alike, whoever steps.
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
WEIGHT_DECAY = 2**-17 / LR
SETTINGS = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
BUDGET_SHARE = 0.25
SMALL = ((3, 4096), (2, 5001), (5, 3001))


@dataclass(frozen=True, eq=False)
class Problem:
    case: Case
    values: list[torch.Tensor]
    gradients: list[torch.Tensor]

    @property
    def has_codes(self) -> bool:
        return self.case.format == "8bit" and self.case.k >= qk.optim.Settings().min_quantized_size

    def parameters(self) -> list[nn.Parameter]:
        """New ones for each contender, with the gradients that all share."""
        made = [nn.Parameter(value.clone()) for value in self.values]
        for parameter, gradient in zip(made, self.gradients, strict=True):
            parameter.grad = gradient
        return made


def problem(case: Case, device: str, copy: int) -> Problem:
    if case.format not in FORMATS:
        raise InputError(
            f"bench: --format should be one of {', '.join(FORMATS)}, was {case.format}"
        )
    random = torch.Generator(device).manual_seed(copy)

    def normal(std: float) -> list[torch.Tensor]:
        shape = (case.n, case.k)
        values = torch.randn(shape, generator=random, device=device) * std
        return [row.clone() for row in values.to(case.torch_dtype)]

    return Problem(case, normal(0.1), normal(0.01))


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    for n, k in SMALL:
        case = Case("adamw8bit", f"{n}x{k}", n, k, 0, DTYPE_NAMES[dtype], format="8bit")
        yield problem(case, device, 1)


def ours(p: Problem) -> Call:
    if p.case.format != "paged8bit":
        return unpaged(p)
    parameters = p.parameters()
    budget = int(BUDGET_SHARE * qk.optim.state_bytes(parameters, bits=8))
    options = {"bits": 8, "paged": True, "memory_budget": budget}
    return stepping(optimizer(parameters, **options), parameters)


def unpaged(p: Problem) -> Call:
    parameters = p.parameters()
    made = optimizer(parameters, bits=32 if p.case.format == "32bit" else 8)
    call = stepping(made, parameters)
    if not p.has_codes:
        return call
    return lambda: {**call(), "codes": made.state[parameters[0]]["exp_avg"]}


def optimizer(parameters: list[nn.Parameter], **options: object) -> qk.optim.AdamW:
    return qk.optim.AdamW(
        parameters, **SETTINGS, skip_nonfinite=False, master_weights=False, **options
    )


def stepping(made: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> Call:
    """A step; of what it updates the last tensor is looked at, after the first call."""
    step: Callable[[], object] = made.step

    def run() -> dict[str, torch.Tensor]:
        step()
        return {"p": parameters[-1].detach()}

    return run


def expected(p: Problem) -> dict[str, Expected]:
    """The first step from no states: whatever keeps them, it is the same."""
    value, gradient = p.values[-1], p.gradients[-1]
    plain = nn.Parameter(value.clone())
    plain.grad = gradient
    torch.optim.AdamW([plain], **SETTINGS).step()
    first = (p.gradients[0].float() * (1 - BETAS[0])) if p.has_codes else torch.zeros(1)
    return {
        "p": Expected(truth(value.double(), gradient.double()), plain.detach()),
        "codes": Expected(encode(first, signed=True)[0]),
    }


def truth(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """m and v corrected are g and g^2."""
    return p * (1 - LR * WEIGHT_DECAY) - LR * g / (g.abs() + EPS)


def cost(p: Problem) -> Cost:
    """Read gradients; read and write parameters and two states."""
    size = p.values[0].element_size()
    state = 4 if p.case.format == "32bit" else 1 + 4 / 256
    return Cost(int(p.case.n * p.case.k * (3 * size + 4 * state)))
