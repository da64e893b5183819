"""The launch rule of qlora_linear on GPUs: a pure function from a problem's sizes to a plan."""

from dataclasses import dataclass, replace

from qlora_kernels.gpu.shares import splits

COLUMNS = 64  # of W that a program decodes at a time
SKINNY_ROWS = 16

# Rows of x from which decoding W once and cuBLAS beat decoding it for every tile of rows, by
# architecture: estimates from instruction counts, to be replaced by measured ones.
DENSE_FROM = {80: 1024, 89: 1024, 90: 512, 100: 512}
SCATTERED_BELOW = 64  # the same where the fused kernel reads value by value, or float32


@dataclass(frozen=True)
class Problem:
    """Sizes of one call: x [m, k], W [n, k]; item_bytes of x; architecture 90 for sm_90."""

    m: int
    n: int
    k: int
    item_bytes: int = 2
    is_aligned: bool = True
    architecture: int = 90


@dataclass(frozen=True)
class Plan:
    """How a product with W is made.

    way: "skinny" (scales multiply sums), "tile" (scales multiply weights) or "dense" (W is decoded
    once into memory, then cuBLAS). splits: shares of the summed dimension, each a program's.
    """

    way: str
    block_m: int = 0
    block_n: int = 0
    num_warps: int = 4
    num_stages: int = 1
    splits: int = 1


DENSE = Plan("dense")
SCATTERED = Plan("tile", 32, 32)
SKINNY = Plan("skinny", 16, 128, num_stages=4)
# By rows of x; the last for all that have more.
FORWARD = {32: Plan("tile", 32, 128, num_stages=4), 64: Plan("tile", 64, 128, num_stages=3)}
FORWARD_LARGEST = Plan("tile", 128, 128, num_warps=8, num_stages=3)
BACKWARD = {16: Plan("tile", 16, 64, num_stages=4), 64: Plan("tile", 64, 64, num_stages=3)}
BACKWARD_LARGEST = Plan("tile", 128, 64, num_warps=8, num_stages=3)


def forward_plan(p: Problem) -> Plan:
    """For y = x W^T."""
    if p.m >= _dense_from(p):
        return DENSE
    if not p.is_aligned or p.item_bytes != 2:
        return SCATTERED
    plan = SKINNY if p.m <= SKINNY_ROWS else _by_rows(p.m, FORWARD, FORWARD_LARGEST)
    programs = -(-p.m // plan.block_m) * -(-p.n // plan.block_n)
    return replace(plan, splits=splits(programs, p.k, COLUMNS))


def backward_plan(p: Problem) -> Plan:
    """For dx = dy W."""
    if p.m >= _dense_from(p):
        return DENSE
    if not p.is_aligned or p.item_bytes != 2:
        return SCATTERED
    return _by_rows(p.m, BACKWARD, BACKWARD_LARGEST)


def every_plan() -> tuple[tuple[Plan, ...], tuple[Plan, ...]]:
    """What the rules can return for aligned 16-bit x, forward and backward, but for splits."""
    forward = (SKINNY, *FORWARD.values(), FORWARD_LARGEST)
    return forward, (*BACKWARD.values(), BACKWARD_LARGEST)


def _by_rows(m: int, plans: dict[int, Plan], largest: Plan) -> Plan:
    return next((plan for rows, plan in plans.items() if m <= rows), largest)


def _dense_from(p: Problem) -> int:
    if not p.is_aligned or p.item_bytes != 2:
        return SCATTERED_BELOW
    known = [a for a in DENSE_FROM if a <= p.architecture]
    return DENSE_FROM[max(known, default=min(DENSE_FROM))]
