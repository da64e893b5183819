"""The launch rule is pure: sizes in, a plan out."""

import pytest

from qlora_kernels.gpu.shares import MAX_SPLITS, rank_tile, splits
from qlora_kernels.ops.qlora_linear.triton_plan import (
    DENSE,
    DENSE_FROM,
    SCATTERED,
    Problem,
    backward_plan,
    forward_plan,
)


@pytest.mark.parametrize("architecture", [80, 86, 89, 90, 100, 120])
def test_few_rows_are_skinny_and_many_are_dense(architecture: int):
    def plans(m: int) -> tuple[str, str]:
        p = Problem(m, 4096, 4096, architecture=architecture)
        return forward_plan(p).way, backward_plan(p).way

    assert plans(1) == plans(16) == ("skinny", "tile")
    assert plans(17) == plans(min(DENSE_FROM.values()) - 1) == ("tile", "tile")
    assert plans(max(DENSE_FROM.values())) == ("dense", "dense")


@pytest.mark.parametrize("change", [{"is_aligned": False}, {"item_bytes": 4}])
def test_what_is_read_value_by_value(change: dict[str, int]):
    for plan in (forward_plan, backward_plan):
        assert plan(Problem(3, 100, 90, **change)) == SCATTERED
        assert plan(Problem(300, 100, 90, **change)) == DENSE


def test_narrow_weights_are_split_along_k():
    """k and v projections of a grouped-query model: too few programs without it."""
    assert forward_plan(Problem(1, 1024, 4096)).splits == MAX_SPLITS
    assert forward_plan(Problem(1, 32768, 4096)).splits == 1
    assert splits(1, 255, 64) == splits(0, 9999, 64) == 1


def test_a_rank_fits_its_tile():
    assert [rank_tile(r) for r in (1, 16, 17, 33, 64, 200)] == [16, 16, 32, 64, 64, 64]
