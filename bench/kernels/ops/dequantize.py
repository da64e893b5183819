"""Codes to a dense weight [n, k], into an output that exists."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import qlora_kernels as qk
from bench.kernels.case import DTYPE_NAMES, SMALL_SHAPES, Call, Case, Cost, Expected

TRAFFIC = "copy"


@dataclass(frozen=True, eq=False)
class Problem:
    case: Case
    q: qk.QuantizedTensor
    out: torch.Tensor


def problem(case: Case, device: str, copy: int) -> Problem:
    random = torch.Generator(device).manual_seed(copy)
    w = torch.randn(case.n, case.k, generator=random, device=device) * case.k**-0.5
    w = w.to(case.torch_dtype)
    return Problem(case, qk.quantize(w, case.format), torch.full_like(w, float("nan")))


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    """Tails, half bytes and several nested blocks."""
    for n, k in SMALL_SHAPES:
        yield problem(Case("dequantize", f"{n}x{k}", n, k, 0, DTYPE_NAMES[dtype]), device, 1)


def ours(p: Problem) -> Call:
    return lambda: {"w": qk.dequantize(p.q, out=p.out)}


def expected(p: Problem) -> dict[str, Expected]:
    with qk.use_backend("reference"):
        return {"w": Expected(qk.dequantize(p.q))}


def cost(p: Problem) -> Cost:
    """Read the codes and scales, write the weight."""
    return Cost(p.q.nbytes + p.out.nbytes)
