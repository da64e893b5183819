"""The norms by which DoRA divides: of `W + s B A`, one per output feature, never formed dense.

    norm[n]^2 = |W_n|^2 + 2 s <W_n A^T, B_n> + s^2 <B_n A A^T, B_n>

W_n [k] and B_n [rank] are rows. Two ways cost the same n k rank multiplications and one decoding of
W: the terms above, summed in double since they cancel where `s B A` nears `-W` (reference); or
a few entries of the sum at a time, squared in registers while they are there (cpu, triton, cuda).
"Column norm" is the paper's word: it writes W as [in, out]. Source: DoRA (arXiv 2402.09353,
equation 5).
"""

from collections.abc import Callable
from typing import Any

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype, check_shapes
from qlora_kernels.dispatch import Room, define
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.formats.quantized_tensor import SCHEMA, unflatten
from qlora_kernels.formats.quantized_tensor import flatten as flatten_base
from qlora_kernels.ops.dora_column_norm import (
    cuda_kernel,
    native_kernel,
    reference,
    triton_kernel,
)

ROOM = Room("dora_column_norm", native_kernel, triton_kernel, cuda_kernel, reference)


def dora_column_norm(q: Base, adapter: Adapter) -> torch.Tensor:
    """`|W + s B A|` per output feature (formula at the top of this file), [n]; no gradient.

    q: a QuantizedTensor [n, k], or a plain tensor; adapter: a [rank, k], b [n, rank], of which
    dropout and magnitude play no part. Returns float32, or float64 for float64 factors. DoRA
    holds the norm constant in backward (section 4.3), so nothing flows through it.

    Raises InputError for shapes, dtypes or devices that do not fit.
    """
    op = "dora_column_norm"
    if isinstance(q, QuantizedTensor):
        q.check(op)
    adapter.check(op)
    check_shapes(op, q=(q, "n k"), a=(adapter.a, "r k"), b=(adapter.b, "n r"))
    for name, factor in (("a", adapter.a), ("b", adapter.b)):
        check_dtype(op, name, factor, FLOATS)
        if factor.device != q.device:
            raise InputError(f"{op}: {name} should be on {q.device}, was on {factor.device}")
    base = q if isinstance(q, QuantizedTensor) else q.detach()
    return _dora_column_norm(
        *flatten_base(base), adapter.a.detach(), adapter.b.detach(), adapter.scaling
    )


def _run(*arguments: Any) -> torch.Tensor:
    *base, a, b, scaling = arguments
    q, adapter = unflatten(*base), Adapter(a, b, scaling)
    norm: torch.Tensor = ROOM.choose(q, adapter).column_norm(q, adapter)
    return norm


def _fake(*arguments: Any) -> torch.Tensor:
    a, b, _ = arguments[-3:]
    norm: torch.Tensor = b.new_empty(b.shape[0], dtype=torch.promote_types(a.dtype, torch.float32))
    return norm


_dora_column_norm: Callable[..., torch.Tensor] = define(
    f"dora_column_norm({SCHEMA}, Tensor a, Tensor b, float scaling) -> Tensor", _run, _fake
)
