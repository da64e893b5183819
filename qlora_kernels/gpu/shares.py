"""How many programs a sum is shared among: pure functions of sizes."""

WAVE = 132  # programs that fill an H100 or H200 once
MAX_SPLITS = 16


def splits(programs: int, length: int, step: int) -> int:
    """Shares of a summed dimension: enough to fill the GPU, none below four steps."""
    return max(1, min(WAVE // programs, length // (4 * step), MAX_SPLITS)) if programs else 1


def rank_tile(rank: int) -> int:
    """Columns of an adapter's factor that a program sums: a power of two from 16 to 64."""
    return min(64, max(16, 1 << (rank - 1).bit_length()))
