"""The launch rule of the CUDA kernel for few rows of x: a pure function from sizes to a plan.

A warp walks a strip of rows of W over a share of its columns, in steps. A thread block has eight
warps: some strips side by side (a group), and slices of the columns for the rest. `splits` thread
blocks share the columns of a group, so that narrow layers fill the GPU too.
"""

from dataclasses import dataclass

MAX_ROWS = 16  # of x
STRIP, WARPS, MAX_SPLITS = 32, 8, 16
SCALED_COLUMNS = 64  # have one scale for the matrix instruction's sums
SCALAR_STEP = 256  # columns that a warp multiplies value by value
SHARE_COLUMNS = 128  # of x A^T: what a thread block sums is a multiple of it
WIDE_TILES_FROM = 9  # rows of x with more sums than let two thread blocks be resident


@dataclass(frozen=True)
class FewRows:
    """Sizes of one call: x [m, k], W [n, k], an adapter's rank or 0; what codes and x are made of.

    is_aligned: codes and rows of x start at multiples of 16 bytes.
    """

    m: int
    n: int
    k: int
    rank: int = 0
    bits: int = 4
    block_size: int = 64
    item_bytes: int = 2
    is_aligned: bool = True
    multiprocessors: int = 132

    @property
    def is_whole(self) -> bool:
        """Whether whole runs of columns share a scale, and may be read 16 bytes at a time."""
        whole = self.k % SCALED_COLUMNS == 0 and self.block_size >= SCALED_COLUMNS
        return whole and self.is_aligned

    @property
    def takes_tensor_cores(self) -> bool:
        """Whether x is, beside, what the instruction takes."""
        return self.is_whole and self.item_bytes == 2

    @property
    def step(self) -> int:
        """Columns that a warp multiplies at a time."""
        if self.takes_tensor_cores:
            return 512 // self.bits
        return SCALED_COLUMNS if self.is_whole else SCALAR_STEP


@dataclass(frozen=True)
class FewRowsPlan:
    """What LinearPlan of csrc/cuda/qlora_linear.h says, and how much memory it asks for."""

    is_whole: bool
    strips: int
    splits: int
    shares: int
    share_columns: int

    def groups(self, n: int) -> int:
        """Groups of strips: thread blocks side by side."""
        return -(-n // (STRIP * self.strips))

    def workspace(self, p: FewRows) -> tuple[int, int, int]:
        """Floats of the sums that meet, of the shares of h, and of h."""
        meeting = p.rank > 0 or self.splits > 1
        sums = self.groups(p.n) * self.splits * p.m * self.strips * STRIP if meeting else 0
        return sums, self.shares * p.m * p.rank, p.m * p.rank


def few_rows_plan(p: FewRows) -> FewRowsPlan:
    """Two thread blocks for each multiprocessor where there is work for them."""
    steps = -(-p.k // p.step)
    strips = 4 if p.m >= WIDE_TILES_FROM else 2  # more of them share what they read of x
    while strips < WARPS and WARPS // strips > steps:
        strips *= 2
    groups = -(-p.n // (STRIP * strips))
    is_wide = p.m >= WIDE_TILES_FROM if p.bits == 4 else p.item_bytes == 4 and p.m > 4
    resident = p.multiprocessors * (1 if is_wide else 2)
    splits = max(1, min(resident // groups, steps * strips // WARPS, MAX_SPLITS))
    at_least = -(-p.k // (groups * splits))
    share_columns = -(-at_least // SHARE_COLUMNS) * SHARE_COLUMNS
    shares = -(-p.k // share_columns) if p.rank else 0
    return FewRowsPlan(p.is_whole, strips, splits, shares, share_columns)
