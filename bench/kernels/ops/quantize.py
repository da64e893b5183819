"""A weight [n, k] to codes with double-quantized scales."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import qlora_kernels as qk
from bench.kernels.case import DTYPE_NAMES, SMALL_SHAPES, Call, Case, Cost, Expected

TRAFFIC = "copy"


@dataclass(frozen=True, eq=False)
class Problem:
    case: Case
    w: torch.Tensor


def problem(case: Case, device: str, copy: int) -> Problem:
    random = torch.Generator(device).manual_seed(copy)
    w = torch.randn(case.n, case.k, generator=random, device=device) * case.k**-0.5
    return Problem(case, w.to(case.torch_dtype))


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    """Tails, half bytes and several nested blocks."""
    for n, k in SMALL_SHAPES:
        yield problem(Case("quantize", f"{n}x{k}", n, k, 0, DTYPE_NAMES[dtype]), device, 1)


def ours(p: Problem) -> Call:
    return lambda: parts(qk.quantize(p.w, p.case.format))


def parts(q: qk.QuantizedTensor) -> dict[str, torch.Tensor]:
    return {"codes": q.codes, "scales": q.scales}


def expected(p: Problem) -> dict[str, Expected]:
    with qk.use_backend("reference"):
        return {name: Expected(t) for name, t in parts(qk.quantize(p.w, p.case.format)).items()}


def cost(p: Problem) -> Cost:
    """Read the weight, write what stays of it."""
    return Cost(p.w.nbytes + qk.quantize(p.w, p.case.format).nbytes)
