"""Our own Triton kernels, beside another backend of ours and in the same rounds."""

from typing import Any

import qlora_kernels as qk
from bench.kernels.case import Call
from bench.kernels.ops import (
    adamw8bit as adamw_op,
)
from bench.kernels.ops import (
    dequantize as dequantize_op,
)
from bench.kernels.ops import (
    dora_column_norm as norm_op,
)
from bench.kernels.ops import (
    qlora_linear as linear_op,
)
from bench.kernels.ops import (
    quantize as quantize_op,
)


def missing() -> str | None:
    return qk.backends()["triton"]


def adamw8bit(p: adamw_op.Problem) -> Call:
    return _forced(adamw_op, p)


def dequantize(p: dequantize_op.Problem) -> Call:
    return _forced(dequantize_op, p)


def dora_column_norm(p: norm_op.Problem) -> Call:
    return _forced(norm_op, p)


def qlora_linear(p: linear_op.Problem) -> Call:
    return _forced(linear_op, p)


def quantize(p: quantize_op.Problem) -> Call:
    return _forced(quantize_op, p)


def _forced(op: Any, problem: Any) -> Call:
    """What is prepared and what runs, both by Triton, whatever is forced around it."""
    with qk.use_backend("triton"):
        call: Call = op.ours(problem)

    def run() -> Any:
        with qk.use_backend("triton"):
            return call()

    return run
