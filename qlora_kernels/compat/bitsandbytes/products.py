"""Products with a packed 4-bit weight, over `qlora_linear` of this library."""

import warnings

import torch
import torch.nn.functional as torch_functional

from qlora_kernels.compat.bitsandbytes.errors import MisfitError
from qlora_kernels.compat.bitsandbytes.functional.four_bit import as_quantized
from qlora_kernels.compat.bitsandbytes.functional.quant_state import QuantState
from qlora_kernels.errors import InputError
from qlora_kernels.ops import dequantize, qlora_linear


def matmul_4bit(
    A: torch.Tensor,
    B: torch.Tensor,
    quant_state: QuantState,
    out: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`y = A W^T + bias` with W packed in B, differentiable in A and bias.

    A: [..., k], any float dtype, which the result has. B: the codes of W [n, k], transposed or not.
    out: written to if given. Backward decodes B and its scales as autograd saved them, so that
    hooks on saved tensors see them. A W that was quantized as [k, n] is taken with a
    DeprecationWarning; a square one is read as [n, k].

    Raises ValueError without a state and for one that is not of a matrix, MisfitError, which is a
    RuntimeError, for shapes that do not fit.
    """
    if quant_state is None:
        raise InputError("matmul_4bit: quant_state should be given, was None")
    if quant_state.shape is None or len(quant_state.shape) != 2:
        shape = None if quant_state.shape is None else list(quant_state.shape)
        raise InputError(f"matmul_4bit: quant_state.shape should be [n, k], was {shape}")
    q = as_quantized(B, quant_state, "matmul_4bit")
    n, k = q.shape
    is_transposed = A.shape[-1] == n != k
    if is_transposed and not torch.compiler.is_compiling():
        warnings.warn(
            f"matmul_4bit: the weight was quantized as [k, n], {list(q.shape)}. "
            "Re-quantize from the weight as [n, k] (out_features, in_features).",
            DeprecationWarning,
            stacklevel=2,
        )
    try:
        if is_transposed:
            result = torch_functional.linear(A, dequantize(q).to(A.dtype).t(), bias)
        else:
            result = qlora_linear(A, q, bias=bias)
    except InputError as error:
        raise MisfitError(str(error)) from None
    return result if out is None else out.copy_(result)


def gemv_4bit(
    A: torch.Tensor,
    B: torch.Tensor,
    out: torch.Tensor | None = None,
    transposed_A: bool = False,
    transposed_B: bool = False,
    state: QuantState | None = None,
) -> torch.Tensor:
    """`y = A W^T` with W [n, k] packed in B and any number of rows; no gradient.

    out: written to if given. transposed_A, transposed_B: without meaning, as in bitsandbytes; B may
    be transposed. Raises ValueError without a state.
    """
    if state is None:
        raise InputError("gemv_4bit: state should be the one of quantize_4bit, was None")
    with torch.no_grad():
        return matmul_4bit(A, B, state, out=out)
