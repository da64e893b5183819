"""What is timed, as values: the case, what it must move and compute, and the calls that do it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
SMALL_SHAPES = ((64, 64), (257, 512), (31, 33), (100, 300), (300, 192))
DIRECTIONS = ("forward", "forward+backward")

Call = Callable[[], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """One problem: W [n, k] in `format`, x [m, k] in `dtype`, an adapter of `rank` (0: none)."""

    op: str
    shape: str  # the projection's name, or NxK
    n: int
    k: int
    m: int
    dtype: str
    direction: str = "forward"
    rank: int = 16
    format: str = "nf4"

    def __str__(self) -> str:
        return f"{self.shape} m={self.m} {self.dtype} {self.direction}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def trains(self) -> bool:
        return self.direction == "forward+backward"


@dataclass(frozen=True)
class Cost:
    """The fewest bytes that must move and the operations that must run, whoever does it."""

    num_bytes: int
    num_flops: int = 0


@dataclass(frozen=True, eq=False)
class Expected:
    """One output: truth and yardstick by the error rule, or a tensor to match bit for bit.

    `rows` samples the rows of an output whose rows don't depend on each other, since float64 takes
    its time.
    """

    truth: torch.Tensor
    plain: torch.Tensor | None = None
    rows: torch.Tensor | None = None


@dataclass(frozen=True)
class Contender:
    """One implementation of a case: a call per copy of the inputs, so that caches can be cold.

    checked_ms: what the call took that was checked, the first; 0 where there was none. trains:
    whether its calls are to run with autograd on, which is set before the clock starts.
    """

    name: str
    calls: tuple[Callable[[], object], ...]
    checked_ms: float = 0.0
    trains: bool = True
