"""DoRA's norms of W + s B A, one per output feature."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import qlora_kernels as qk
from bench.kernels.case import DTYPE_NAMES, SMALL_SHAPES, Call, Case, Cost, Expected

TRAFFIC = "read"


@dataclass(frozen=True, eq=False)
class Problem:
    case: Case
    q: qk.QuantizedTensor
    adapter: qk.Adapter


def problem(case: Case, device: str, copy: int) -> Problem:
    random = torch.Generator(device).manual_seed(copy)

    def normal(*shape: int, std: float) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device) * std

    w = normal(case.n, case.k, std=case.k**-0.5).to(case.torch_dtype)
    a, b = normal(case.rank, case.k, std=case.k**-0.5), normal(case.n, case.rank, std=0.5)
    return Problem(case, qk.quantize(w, case.format), qk.Adapter(a, b, scaling=2.0))


def small_problems(dtype: torch.dtype, device: str) -> Iterator[Problem]:
    for n, k in SMALL_SHAPES:
        case = Case("dora_column_norm", f"{n}x{k}", n, k, 0, DTYPE_NAMES[dtype], rank=8)
        yield problem(case, device, 1)


def ours(p: Problem) -> Call:
    return lambda: {"norm": qk.dora_column_norm(p.q, p.adapter)}


def expected(p: Problem) -> dict[str, Expected]:
    """The dense sum; the norm is float32 whatever the weight's dtype was."""
    plain, truth = (dense_norm(p, dtype) for dtype in (torch.float32, torch.float64))
    return {"norm": Expected(truth, plain)}


def dense_norm(p: Problem, dtype: torch.dtype) -> torch.Tensor:
    """What the op never makes, and what peft computes in each forward."""
    w = qk.dequantize(p.q, torch.float32).to(dtype)
    a, b = p.adapter.a.to(dtype), p.adapter.b.to(dtype)
    return (w + p.adapter.scaling * (b @ a)).norm(dim=1)


def cost(p: Problem) -> Cost:
    """Read codes, A and B; the product with A, its dot products, and the squares of W."""
    n, k, r = p.case.n, p.case.k, p.case.rank
    return Cost(p.q.nbytes + 4 * r * (n + k) + 4 * n, 2 * n * k * (r + 1) + 2 * r * r * (n + k))
