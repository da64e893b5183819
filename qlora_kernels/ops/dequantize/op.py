"""Dequantization of a weight: `w[i] = codebook[code[i]] * absmax[i // block_size]`.

int8: `w[i] = code[i] * (absmax[i // block_size] / 127)`. Products are float32 and rounded once to
the output dtype; the bits equal bitsandbytes' for nf4 and fp4.
"""

from collections.abc import Callable
from typing import Any

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype
from qlora_kernels.dispatch import Room, define
from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.quantized_tensor import SCHEMA, unflatten
from qlora_kernels.ops.dequantize import cuda_kernel, native_kernel, reference, triton_kernel

ROOM = Room("dequantize", native_kernel, triton_kernel, cuda_kernel, reference)


def dequantize(
    q: QuantizedTensor, dtype: torch.dtype | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """`codebook[code] * absmax` (formula at the top of this file), of q's shape.

    dtype: the result's, by default the original weight's (`q.dtype`). out: a contiguous tensor of
    q's shape to write into, of any float dtype; then `dtype` must be absent or equal to it.

    Raises InputError for parts of q that do not belong together and for a wrong `out`.
    """
    q.check("dequantize")
    out_dtype = dtype or (q.dtype if out is None else out.dtype)
    check_dtype("dequantize", "dtype", torch.empty(0, dtype=out_dtype), FLOATS)
    if out is None:
        return _dequantize(*q.flatten(), out_dtype)
    check_dtype("dequantize", "out", out, (out_dtype,))
    if out.shape != torch.Size(q.shape) or not out.is_contiguous() or out.device != q.device:
        raise InputError(
            f"dequantize: out should be contiguous {list(q.shape)} on {q.device}, "
            f"was {list(out.shape)} with strides {out.stride()} on {out.device}"
        )
    _dequantize_out(*q.flatten(), out=out)
    return out


def _run_out(*base: Any, out: torch.Tensor) -> None:
    q = unflatten(*base)
    ROOM.choose(q, out).dequantize(q, out)


def _run(*arguments: Any) -> torch.Tensor:
    out = _fake(*arguments)
    _run_out(*arguments[:-1], out=out)
    return out


def _fake(codes: torch.Tensor, *rest: Any) -> torch.Tensor:
    shape, out_dtype = rest[3], rest[-1]
    return codes.new_empty(shape, dtype=out_dtype)


def _fake_out(*base: Any, out: torch.Tensor) -> None:
    pass


_dequantize: Callable[..., torch.Tensor] = define(
    f"dequantize({SCHEMA}, ScalarType out_dtype) -> Tensor", _run, _fake
)
_dequantize_out = define(f"dequantize.out({SCHEMA}, *, Tensor(a!) out) -> ()", _run_out, _fake_out)
