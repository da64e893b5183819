"""The one list of cases: tails, rows that start inside a byte or a block, empties."""

from dataclasses import dataclass, replace

import torch

from qlora_kernels.formats import Adapter, QuantizedTensor
from qlora_kernels.ops import quantize

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LinearCase:
    """One problem of `qlora_linear`: x [m, k], W [n, k], A [rank, k]; rank 0 has no adapter."""

    m: int
    n: int
    k: int
    rank: int = 8
    format: str = "nf4"
    block_size: int = 64
    double_quant: bool = True
    bias: bool = False
    dropout: float = 0.0
    dropout_on: str = "rank"
    dora: bool = False

    def __str__(self) -> str:
        """Short enough for a test's name."""
        parts = [f"{self.m}x{self.n}x{self.k}", f"r{self.rank}", f"{self.format}-{self.block_size}"]
        parts += ["dq"] if self.double_quant else []
        parts += ["bias"] if self.bias else []
        parts += [f"{self.dropout_on}{self.dropout}"] if self.dropout else []
        parts += ["dora"] if self.dora else []
        return "-".join(parts)


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """The tensors of a case, in the dtype under test; A, B and magnitude are float32 masters."""

    x: torch.Tensor
    q: QuantizedTensor
    adapter: Adapter | None
    bias: torch.Tensor | None
    dy: torch.Tensor
    seed: int = 1234567890123


LINEAR_CASES = (
    LinearCase(1, 64, 64),
    LinearCase(1, 257, 512, rank=16, bias=True),
    LinearCase(3, 48, 320, rank=4),
    LinearCase(7, 96, 96, block_size=64, bias=True),
    LinearCase(8, 128, 256, rank=0),
    LinearCase(33, 100, 300, rank=16, double_quant=False),
    LinearCase(5, 31, 33, rank=3, block_size=32),
    LinearCase(17, 65, 127, rank=8, format="fp4", bias=True),
    LinearCase(64, 192, 192, rank=16, format="int8"),
    LinearCase(29, 70, 130, rank=5, format="int8", block_size=128, double_quant=False),
    LinearCase(40, 128, 576, rank=16, dropout=0.05),
    LinearCase(40, 128, 192, rank=16, dropout=0.25, dropout_on="input", bias=True),
    LinearCase(19, 90, 4100, rank=8, block_size=4096),
    LinearCase(130, 260, 520, rank=64),
    LinearCase(2, 1, 1, rank=1),
    LinearCase(0, 32, 64),
)


# The same with a magnitude; no adapter, none to scale.
DORA_CASES = tuple(replace(case, dora=True) for case in LINEAR_CASES if case.rank)


def generator(case: object) -> torch.Generator:
    """A generator seeded by the case itself, the same in every process."""
    return torch.Generator().manual_seed(sum(str(case).encode()))


def linear_problem(case: LinearCase, dtype: torch.dtype) -> LinearProblem:
    """Seeded tensors of a case: activations of unit size, an adapter whose update can be seen."""
    random = generator(case)

    def normal(*shape: int, std: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * std

    w = normal(case.n, case.k, std=case.k**-0.5)
    adapter = None
    if case.rank:
        a, b = normal(case.rank, case.k, std=case.k**-0.5), normal(case.n, case.rank, std=0.5)
        adapter = Adapter(a, b, 0.75, case.dropout, case.dropout_on)
    if adapter is not None and case.dora:
        adapter = replace(adapter, magnitude=torch.rand(case.n, generator=random) + 0.5)
    return LinearProblem(
        normal(case.m, case.k).to(dtype),
        quantize(w, case.format, case.block_size, case.double_quant),
        adapter,
        normal(case.n).to(dtype) if case.bias else None,
        normal(case.m, case.n).to(dtype),
    )
