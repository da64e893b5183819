"""The launch rule of qlora_linear on GPUs: a pure function from a problem's sizes to a plan.

Up to how many rows of x which plan is the best says a table, triton_table.json, for each
architecture and direction. `python -m bench gpu --stages table` measures it anew.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from qlora_kernels.gpu.shares import splits

TABLE = Path(__file__).with_name("triton_table.json")
COLUMNS = 64  # of W that a program decodes at a time
SCATTERED_BELOW = 64  # rows of x: a fused kernel that reads value by value, or float32


@dataclass(frozen=True)
class Problem:
    """Sizes of one call: x [m, k], W [n, k]; item_bytes of x; architecture 90 for sm_90."""

    m: int
    n: int
    k: int
    rank: int = 0
    item_bytes: int = 2
    is_aligned: bool = True
    architecture: int = 90

    @property
    def is_whole(self) -> bool:
        """Whether weights are read many at a time, for a matrix instruction of 16-bit values."""
        return self.is_aligned and self.item_bytes == 2

    def __str__(self) -> str:
        """What times depend on, rows to a power of two: how measured plans are kept."""
        rows = 1 << max(0, self.m - 1).bit_length()
        return f"m<={rows} n={self.n} k={self.k} rank={self.rank}"


@dataclass(frozen=True)
class Plan:
    """How a product with W is made.

    way: "skinny" (scales multiply sums), "tile" (scales multiply weights) or "dense" (W is decoded
    once into memory, then cuBLAS). splits: shares of the summed dimension, each a program's. folds:
    the adapter's product is a part of cuBLAS' own.
    """

    way: str
    block_m: int = 0
    block_n: int = 0
    num_warps: int = 4
    num_stages: int = 1
    splits: int = 1
    folds: bool = False


DENSE = Plan("dense")
SCATTERED = Plan("tile", 32, 32)
SKINNY = Plan("skinny", 16, 128, num_stages=4)
FORWARD_LARGEST = Plan("tile", 128, 128, num_warps=8, num_stages=3)
BACKWARD_LARGEST = Plan("tile", 128, 64, num_warps=8, num_stages=3)
# By the names that the table has for them.
FORWARD = {
    "skinny": SKINNY,
    "tile 32": Plan("tile", 32, 128, num_stages=4),
    "tile 64": Plan("tile", 64, 128, num_stages=3),
    "tile 128": FORWARD_LARGEST,
    "dense": DENSE,
}
BACKWARD = {
    "tile 16": Plan("tile", 16, 64, num_stages=4),
    "tile 64": Plan("tile", 64, 64, num_stages=3),
    "tile 128": BACKWARD_LARGEST,
    "dense": DENSE,
}

Rows = Mapping[str, int | None]  # a plan's name -> up to how many rows; the last has no limit


def forward_plan(p: Problem, name: str | None = None) -> Plan:
    """For y = x W^T; name: of FORWARD, where it is not the table's to choose."""
    if not p.is_whole:
        return _dense(p, p.k, p.n) if p.m >= SCATTERED_BELOW else SCATTERED
    plan = FORWARD[name or _best("forward", p.m, p.architecture)]
    if plan == DENSE:
        return _dense(p, p.k, p.n)
    programs = -(-p.m // plan.block_m) * -(-p.n // plan.block_n)
    return replace(plan, splits=splits(programs, p.k, COLUMNS))


def backward_plan(p: Problem, name: str | None = None, *, fused: bool = False) -> Plan:
    """For dx = dy W; name: of BACKWARD; fused: by a kernel of ours, however many rows there are."""
    if not p.is_whole:
        return SCATTERED if p.m < SCATTERED_BELOW or fused else _dense(p, p.n, p.k)
    plan = BACKWARD[name or _best("backward", p.m, p.architecture)]
    if plan == DENSE:
        return BACKWARD_LARGEST if fused else _dense(p, p.n, p.k)
    return plan


def every_plan() -> tuple[tuple[Plan, ...], tuple[Plan, ...]]:
    """What the rules can return for aligned 16-bit x, forward and backward, but for splits."""
    forward, backward = (
        tuple(plan for plan in plans.values() if plan != DENSE) for plans in (FORWARD, BACKWARD)
    )
    return forward, backward


@cache
def launch_table() -> dict[int, dict[str, Rows]]:
    """architecture -> "forward" and "backward" -> rows."""
    read = json.loads(TABLE.read_text(encoding="utf-8"))
    return {int(name): {d: row[d] for d in ("forward", "backward")} for name, row in read.items()}


@cache
def _best(direction: str, m: int, architecture: int) -> str:
    """The plan's name, by the table of the newest architecture that is not newer."""
    known = launch_table()
    nearest = max((a for a in known if a <= architecture), default=min(known))
    rows = known[nearest][direction]
    return next(name for name, limit in rows.items() if limit is None or m <= limit)


def _dense(p: Problem, summed: int, made: int) -> Plan:
    """Folding copies rows [m, summed]; adding moves results [m, made] twice."""
    return replace(DENSE, folds=p.rank > 0 and p.is_aligned and summed <= made)
