"""The launch rule of the CUDA kernel for few rows: narrow layers fill the GPU too."""

import pytest

from qlora_kernels.ops.qlora_linear.cuda_plan import (
    MAX_ROWS,
    MAX_SPLITS,
    STRIP,
    WARPS,
    FewRows,
    few_rows_plan,
)

# (n, k) of Llama 8B, SmolLM 135M and a tail of either.
LAYERS = ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (192, 576), (1, 64), (33, 100))


@pytest.mark.parametrize("n, k", LAYERS)
@pytest.mark.parametrize("m", (1, 8, 9, MAX_ROWS))
def test_plans_hold_together(m: int, n: int, k: int):
    for item_bytes in (2, 4):
        p = FewRows(m, n, k, rank=16, item_bytes=item_bytes)
        plan = few_rows_plan(p)
        assert WARPS % plan.strips == 0 and 1 <= plan.splits <= MAX_SPLITS
        assert plan.shares <= plan.groups(n) * plan.splits, "a share for each block at most"
        assert (plan.shares - 1) * plan.share_columns < k <= plan.shares * plan.share_columns
        assert plan.groups(n) * plan.strips * STRIP >= n


@pytest.mark.parametrize("n, k", LAYERS[:4])
def test_large_layers_fill_the_gpu(n: int, k: int):
    p = FewRows(1, n, k)
    plan = few_rows_plan(p)
    assert plan.is_whole
    assert plan.groups(n) * plan.splits >= 0.9 * p.multiprocessors


def test_no_adapter_and_no_split_meet_nowhere():
    p = FewRows(1, 14336, 4096)
    assert few_rows_plan(p).workspace(p) == (0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [{"k": 96}, {"block_size": 32}, {"k": 96, "item_bytes": 4}, {"is_aligned": False}],
    ids=str,
)
def test_other_weights_are_walked_value_by_value(change: dict[str, int]):
    sizes = {"m": 1, "n": 64, "k": 128} | change
    assert not few_rows_plan(FewRows(**sizes)).is_whole
