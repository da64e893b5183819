"""Our own optimizer without pages: what paging costs."""

from bench.kernels.case import Call
from bench.kernels.ops import adamw8bit as adamw_op


def missing() -> str | None:
    return None


def adamw8bit(p: adamw_op.Problem) -> Call:
    return adamw_op.unpaged(p)
