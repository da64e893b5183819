"""The launch rule is pure: sizes in, a plan out."""

import pytest

from qlora_kernels.gpu.shares import MAX_SPLITS, rank_tile, splits
from qlora_kernels.ops.qlora_linear.triton_plan import (
    BACKWARD,
    FORWARD,
    SCATTERED,
    Problem,
    backward_plan,
    forward_plan,
    launch_table,
)


@pytest.mark.parametrize("architecture", [75, 80, 86, 89, 90, 100, 120])
def test_few_rows_are_skinny_and_many_are_dense(architecture: int):
    def plans(m: int) -> tuple[str, str]:
        p = Problem(m, 4096, 4096, architecture=architecture)
        return forward_plan(p).way, backward_plan(p).way

    table = launch_table()
    rows = table[max((a for a in table if a <= architecture), default=80)]
    skinny, largest = rows["forward"]["skinny"], rows["forward"]["tile 128"]
    assert plans(1) == plans(skinny) == ("skinny", "tile")
    assert plans(skinny + 1)[0] == plans(largest)[0] == "tile"
    assert plans(1 << 20) == ("dense", "dense")


def test_the_table_has_a_plan_for_every_number_of_rows():
    for table in launch_table().values():
        for direction, plans in (("forward", FORWARD), ("backward", BACKWARD)):
            *limited, last = table[direction].values()
            assert last is None and limited == sorted(limited)
            assert set(table[direction]) <= set(plans)


@pytest.mark.parametrize("change", [{"is_aligned": False}, {"item_bytes": 4}])
def test_what_is_read_value_by_value(change: dict[str, int]):
    for plan in (forward_plan, backward_plan):
        assert plan(Problem(3, 100, 90, **change)) == SCATTERED
        assert plan(Problem(300, 100, 90, **change)).way == "dense"


def test_a_mask_on_x_needs_a_fused_kernel():
    for change in ({}, {"is_aligned": False}):
        assert backward_plan(Problem(9999, 512, 512, 16, **change), fused=True).way == "tile"


def test_the_adapter_is_folded_where_that_moves_less():
    """Folding copies x; adding moves y twice, of which one may be much wider."""
    up, down = Problem(4096, 14336, 4096, 16), Problem(4096, 4096, 14336, 16)
    assert forward_plan(up).folds and not forward_plan(down).folds
    assert backward_plan(down).folds and not backward_plan(up).folds
    assert not forward_plan(Problem(4096, 14336, 4096)).folds


def test_narrow_weights_are_split_along_k():
    """k and v projections of a grouped-query model: too few programs without it."""
    assert forward_plan(Problem(1, 1024, 4096)).splits == MAX_SPLITS
    assert forward_plan(Problem(1, 32768, 4096)).splits == 1
    assert splits(1, 255, 64) == splits(0, 9999, 64) == 1


def test_a_rank_fits_its_tile():
    assert [rank_tile(r) for r in (1, 16, 17, 33, 64, 200)] == [16, 16, 32, 64, 64, 64]
