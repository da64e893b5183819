"""The machine's roof, measured on the spot: bytes per second and operations per second."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from bench.kernels import multiply_adds
from bench.kernels.case import DTYPES, Contender, Cost
from bench.kernels.clock import Stopwatch, cpu_stopwatch, interleave
from bench.kernels.clock_gpu import gpu_stopwatch

CPU_BYTES, GPU_BYTES = 1 << 28, 1 << 31  # far out of any cache
CPU_SIZE, GPU_SIZE = 1024, 8192  # of the square matrices: large enough for the full rate
SECONDS = 0.15  # for each of its parts
Traffic = Literal["read", "copy", "update"]


@dataclass(frozen=True)
class Roof:
    """What the memory and the arithmetic units reach here; decimal units.

    An update writes what it has read. A copy writes elsewhere, where a CPU may read a line before
    it writes it: a rate of its own, often the lowest. The matrix rate is torch's own product's or,
    of a CPU, that of products in registers with nothing to read, if it is better; the latter alone
    is loop_gflop_per_s: None of a GPU, and where no compiler is found.
    """

    read_gb_per_s: float
    copy_gb_per_s: float
    update_gb_per_s: float
    matrix_gflop_per_s: float
    dtype: str
    loop_gflop_per_s: float | None = None

    def milliseconds(self, cost: Cost, traffic: Traffic) -> float:
        """The least time for a cost, at the rate of the traffic that it mostly is."""
        bandwidth: float = getattr(self, f"{traffic}_gb_per_s")
        return 1e-6 * max(cost.num_bytes / bandwidth, cost.num_flops / self.matrix_gflop_per_s)


def stopwatch(contender: Contender, device: str) -> Stopwatch:
    """Autograd is on or off, as the calls want it, before the clock starts: that is no work of
    theirs, and takes longer than some of them where caches are cold.
    """
    with torch.set_grad_enabled(contender.trains):
        watch = gpu_stopwatch(contender) if device == "cuda" else cpu_stopwatch(contender)

    def sample() -> float:
        with torch.set_grad_enabled(contender.trains):
            return watch()

    return sample


def measure(dtype: str, device: str) -> Roof:
    """The roof of this minute: neighbours on a host change what its memory gives to each. Of a GPU,
    which has none, it is measured once.
    """
    return _measured_once(dtype, device) if device == "cuda" else _measured(dtype, device)


def _measured(dtype: str, device: str) -> Roof:
    """Best of several rounds each: a roof is what can be reached, not what is usual.

    16-bit values may be computed in float32, so the matrix rate is the better of both.
    """
    num_bytes = GPU_BYTES if device == "cuda" else CPU_BYTES
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    read_ms = _best_ms(lambda: source.sum(), device)
    copy_ms = _best_ms(lambda: target.copy_(source), device)
    update_ms = _best_ms(lambda: target.neg_(), device)
    size = GPU_SIZE if device == "cuda" else CPU_SIZE
    products_ms = [
        _best_ms(_product(size, DTYPES[name], device), device) for name in {dtype, "fp32"}
    ]
    product = 1e-6 * 2 * size**3 / min(products_ms)
    loop = None if device == "cuda" else _loop_gflop_per_s(dtype)
    return Roof(
        1e-6 * num_bytes / read_ms,
        1e-6 * 2 * num_bytes / copy_ms,
        1e-6 * 2 * num_bytes / update_ms,
        max(product, loop or 0.0),
        dtype,
        loop,
    )


def _loop_gflop_per_s(dtype: str) -> float | None:
    loops = multiply_adds.loops(torch.get_num_threads(), dtype)
    return max((1e-6 * n / _best_ms(call, "cpu") for call, n in loops), default=None)


_measured_once = cache(_measured)


def _product(size: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    """x W^T: the order that libraries are fastest in; of 16 bits the only fast one on some CPUs."""
    random = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, size, size, generator=random, device=device).to(dtype)
    return lambda: torch.nn.functional.linear(a, b)


def _best_ms(call: Callable[[], object], device: str) -> float:
    contender = Contender("roof", (call,))
    return min(interleave([stopwatch(contender, device)], SECONDS)[0].rounds_ms)
