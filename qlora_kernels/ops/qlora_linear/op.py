"""The linear layer of QLoRA: a frozen base weight and a low-rank adapter in one op.

    y  = x W^T + s h B^T + bias,    h = drop(x A^T) or drop(x) A^T
    dx = dy W + dh A,  da = dh^T x,  db = s dy^T h,  dbias = sum dy,    dh = s dy B

W [n, k] is decoded from its codes in both directions; no dense copy is kept for backward, which
holds x, the codes, A and B only. Dropout masks are regenerated from a seed. Source: QLoRA (arXiv
2305.14314, equation 5), LoRA (arXiv 2106.09685).
"""

from collections.abc import Callable
from typing import Any

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype, check_shapes
from qlora_kernels.dispatch import Room, define
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.formats.quantized_tensor import SCHEMA as BASE_SCHEMA
from qlora_kernels.ops.dropout_mask.op import seed_tensor
from qlora_kernels.ops.qlora_linear import native_kernel, reference
from qlora_kernels.ops.qlora_linear.call import SCHEMA, Call, Needs

ROOM = Room("qlora_linear", native_kernel, reference)


def qlora_linear(
    x: torch.Tensor,
    q: Base,
    adapter: Adapter | None = None,
    bias: torch.Tensor | None = None,
    *,
    seed: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """`y = x W^T + s (drop(x A^T)) B^T + bias`, differentiable in x, a, b and bias.

    x: [..., k], float32, bfloat16, float16 (float64 by the reference backend); q: a QuantizedTensor
    [n, k], or a plain frozen tensor for 16-bit LoRA; adapter: a [rank, k], b [n, rank]; bias: [n].
    Returns [..., n] of x's dtype; sums are accumulated in float32. With adapter.dropout > 0 it
    always drops; `seed` (64 bits, by default drawn from torch's generator) fixes the mask, which is
    `dropout_mask(seed, (m, rank or k), p)` with m the product of x's leading dimensions.

    Raises InputError for shapes, dtypes or devices that do not fit, and for a dense q that wants a
    gradient.
    """
    _check(x, q, adapter, bias)
    if adapter is None or adapter.dropout == 0.0:
        seed = None
    elif seed is None:
        seed = torch.randint(2**62, (), dtype=torch.int64, device=x.device)
    else:
        seed = seed_tensor("qlora_linear", seed, x.device)
    return _qlora_linear(*Call(x, q, adapter, seed).flatten(), bias)


def _check(x: torch.Tensor, q: Base, adapter: Adapter | None, bias: torch.Tensor | None) -> None:
    op = "qlora_linear"
    tensors = {"x": x, "bias": bias}
    if isinstance(q, QuantizedTensor):
        q.check(op)
    elif q.requires_grad:
        raise InputError(f"{op}: the base weight should be frozen, was one that wants a gradient")
    sizes = check_shapes(op, q=(q, "n k"), x=(x, "... k"), bias=(bias, "n"))
    if adapter is not None:
        adapter.check(op)
        check_shapes(op, sizes, a=(adapter.a, "r k"), b=(adapter.b, "n r"))
        tensors |= {"a": adapter.a, "b": adapter.b}
    for name, tensor in tensors.items():
        if tensor is not None:
            check_dtype(op, name, tensor, FLOATS)
            if tensor.device != q.device:
                raise InputError(f"{op}: {name} should be on {q.device}, was on {tensor.device}")


def _run(*arguments: Any) -> torch.Tensor:
    *flat, bias = arguments
    call = Call.unflatten(*flat)
    x = call.rows
    kernel = ROOM.choose(x, call.base, call.adapter, call.seed)
    y: torch.Tensor = kernel.forward(x, call.base, call.adapter, bias, call.seed)
    return y.view(*call.x.shape[:-1], call.out_features)


def _fake(*arguments: Any) -> torch.Tensor:
    call = Call.unflatten(*arguments[:-1])
    return call.x.new_empty((*call.x.shape[:-1], call.out_features))


def _run_backward(dy: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    *flat, needs = arguments
    call = Call.unflatten(*flat)
    x, dy2d = call.rows, dy.reshape(-1, call.out_features)
    kernel = ROOM.choose(x, call.base, call.adapter, call.seed)
    gradients = kernel.backward(dy2d, x, call.base, call.adapter, call.seed, Needs(*needs))
    shaped = gradients._replace(x=None if gradients.x is None else gradients.x.view(call.x.shape))
    # An operator cannot return None, so what is not wanted comes back empty.
    return tuple(dy.new_empty(0) if g is None else g for g in shaped)


def _fake_backward(dy: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    *flat, needs = arguments
    call = Call.unflatten(*flat)
    a, b = (call.adapter.a, call.adapter.b) if call.adapter else (None, None)
    like = (call.x, a, b, dy.new_empty(call.out_features))
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format)
        if needed and t is not None
        else dy.new_empty(0)
        for t, needed in zip(like, needs, strict=True)
    )


class _QLoRALinear(torch.autograd.Function):
    """Saves the codes, A and B, and x only where an adapter's gradient reads it."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        x, *rest, bias = arguments
        needs = _needs(ctx.needs_input_grad)
        if not (needs.a or needs.b):
            x = x.new_empty(1).expand(x.shape)  # its shape is all that backward reads
        tensors = [t if isinstance(t, torch.Tensor) else None for t in (x, *rest)]
        ctx.save_for_backward(*tensors)
        ctx.constants = [None if isinstance(t, torch.Tensor) else t for t in (x, *rest)]
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return _qlora_linear(*arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needs = _needs(ctx.needs_input_grad)
        saved = zip(ctx.saved_tensors, ctx.constants, strict=True)
        arguments = [constant if tensor is None else tensor for tensor, constant in saved]
        gradients = _qlora_linear_backward(dy, *arguments, list(needs))
        dx, da, db, dbias = (g if n else None for g, n in zip(gradients, needs, strict=True))
        result: list[torch.Tensor | None] = [None] * len(ctx.needs_input_grad)
        result[0], result[_A], result[_B] = dx, da, db
        result[-1] = None if dbias is None else dbias.to(ctx.bias_dtype)
        return tuple(result)


_A = 1 + len(BASE_SCHEMA.split(","))
_B = _A + 1


def _needs(wanted: tuple[bool, ...]) -> Needs:
    return Needs(wanted[0], wanted[_A], wanted[_B], wanted[-1])


_qlora_linear: Callable[..., torch.Tensor] = define(
    f"qlora_linear({SCHEMA}, Tensor? bias) -> Tensor", _run, _fake, _QLoRALinear.apply
)
_qlora_linear_backward = define(
    f"qlora_linear_backward(Tensor dy, {SCHEMA}, bool[] needs)"
    " -> (Tensor dx, Tensor da, Tensor db, Tensor dbias)",
    _run_backward,
    _fake_backward,
)
