"""Measures the launch table of qlora_linear: up to how many rows of x which plan is the best.

    time(plan, rows) = sum over the layers of a block of Llama-8B, adapters of rank 16, bf16

The table that it writes takes the place of qlora_kernels/ops/qlora_linear/triton_table.json, whose
other architectures it keeps.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

import qlora_kernels as qk
from bench.gpu.place import ROOT, Place
from bench.kernels.case import Contender
from bench.kernels.clock import MIN_ROUNDS
from bench.kernels.clock_gpu import gpu_stopwatch
from bench.kernels.shapes import shapes
from qlora.provenance import gpu_model, versions
from qlora_kernels.files import write_text
from qlora_kernels.ops.qlora_linear import triton_kernel, triton_plan
from qlora_kernels.ops.qlora_linear.call import Needs

ROWS = (1, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
MODEL, RANK = "llama-8b", 16
NEEDS = Needs(x=True, a=False, b=False, bias=False)

Time = Callable[[str, int], float]  # of a plan, by its name, for so many rows


def thresholds(plans: Sequence[str], rows: Sequence[int], time: Time) -> dict[str, int | None]:
    """Each plan with the most rows up to which it is the best; the last without limit.

    A plan once left does not come back: among the ways to leave the plans in their order, the one
    that costs least over all rows, each row relative to its best plan.
    """
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # last plan -> cost, choices
    for m in rows:
        times = [time(name, m) for name in plans]
        cost = [t / min(times) for t in times]
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for plan in range(len(plans)):
            before = min((best[p] for p in best if p <= plan), default=None)
            if before is not None:
                reached[plan] = (before[0] + cost[plan], (*before[1], plan))
        best = reached
    choices = min(best.values())[1]
    found: dict[str, int | None] = {}
    for m, plan in zip(rows, choices, strict=True):
        found[plans[plan]] = m
    return found | {plans[choices[-1]]: None}


def measured(time: Callable[[str], Time], source: str) -> dict[str, object]:
    """An architecture's entry; `time` gives the clock of a direction."""
    return {
        "source": source,
        "forward": thresholds(tuple(triton_plan.FORWARD), ROWS, time("forward")),
        "backward": thresholds(tuple(triton_plan.BACKWARD), ROWS, time("backward")),
    }


def with_entry(table: Mapping[str, object], architecture: int, entry: object) -> str:
    """The table's text: an architecture a block, a direction a line."""
    every = {**table, str(architecture): entry}
    blocks = []
    for name in sorted(every, key=int):
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in dict(every[name]).items()]  # type: ignore[call-overload]
        blocks.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def launch_table(place: Place) -> Iterator[str]:
    """Write it into the output, and say where it belongs."""
    if place.rehearses:
        yield "not measured, there is no GPU"
        return
    found = versions(("torch", "triton"))
    source = f"{gpu_model()}, torch {found['torch']}, triton {found['triton']}"
    major, minor = torch.cuda.get_device_capability()
    table = json.loads(triton_plan.TABLE.read_text(encoding="utf-8"))
    entry = measured(gpu_clock, source)
    path = place.output / triton_plan.TABLE.name
    write_text(path, with_entry(table, 10 * major + minor, entry))
    yield f"forward {entry['forward']}"
    yield f"backward {entry['backward']}"
    yield f"written to {path.name}; it belongs to {triton_plan.TABLE.relative_to(ROOT)}"


def gpu_clock(direction: str) -> Time:
    """Milliseconds of a block's layers on this GPU, one plan for all."""
    bases = [_base(n, k) for _, n, k in shapes(MODEL, "qlora_linear")]

    def time(name: str, m: int) -> float:
        return sum(_milliseconds(direction, name, m, *each) for each in bases)

    return time


def _base(n: int, k: int) -> tuple[qk.QuantizedTensor, qk.Adapter]:
    random = torch.Generator("cuda").manual_seed(0)
    w, a, b = (
        torch.randn(*shape, generator=random, device="cuda") * shape[1] ** -0.5
        for shape in ((n, k), (RANK, k), (n, RANK))
    )
    return qk.quantize(w.bfloat16()), qk.Adapter(a, b, scaling=2.0)


def _milliseconds(
    direction: str, name: str, m: int, base: qk.QuantizedTensor, adapter: qk.Adapter
) -> float:
    n, k = base.shape
    x, dy = (torch.randn(m, width, device="cuda", dtype=torch.bfloat16) for width in (k, n))

    def call() -> object:
        if direction == "forward":
            return triton_kernel.forward(x, base, adapter, None, None)
        return triton_kernel.backward(dy, x, base, adapter, None, NEEDS)

    with planned(direction, name):
        watch = gpu_stopwatch(Contender(name, (call,)))
        return min(watch() for _ in range(MIN_ROUNDS))


@contextmanager
def planned(direction: str, name: str) -> Iterator[None]:
    """All calls take this plan of the direction."""
    rule = f"{direction}_plan"
    kept = getattr(triton_plan, rule)
    setattr(triton_kernel, rule, lambda problem, _=None, **named: kept(problem, name, **named))
    try:
        yield
    finally:
        setattr(triton_kernel, rule, kept)
