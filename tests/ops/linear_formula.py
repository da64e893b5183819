"""The formula that the tests share with `qlora doctor env`."""

from qlora_kernels.testing.linear_formula import (
    formula,
    in_float64,
    judge,
    op,
    outputs,
    with_leaves,
)

__all__ = ["formula", "in_float64", "judge", "op", "outputs", "with_leaves"]
