"""The linear layer of QLoRA: a frozen base weight and a low-rank adapter in one op.

    y  = x W^T + s h B^T + bias,    h = drop(x A^T) or drop(x) A^T
    dx = dy W + dh A,  da = dh^T x,  db = s dy^T h,  dbias = sum dy,    dh = s dy B

and with a magnitude (DoRA), g = magnitude / |W + s B A| per output feature, the norm held constant:

    y  = g * u + bias,    u = x W^T + s h B^T
    dg = sum dy * u,      and the gradients above with g * dy for dy, but dbias

W [n, k] is decoded from its codes in both directions; no dense copy is kept for backward, which
holds x, the codes, A and B only, and y for the magnitude. Dropout masks are regenerated from a
seed. Sources: QLoRA (arXiv 2305.14314, equation 5), LoRA (arXiv 2106.09685), DoRA (arXiv
2402.09353, equation 5 and section 4.3).
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype, check_shapes
from qlora_kernels.dispatch import Room, define
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.formats.quantized_tensor import SCHEMA as BASE_SCHEMA
from qlora_kernels.ops.dora_column_norm import dora_column_norm
from qlora_kernels.ops.dropout_mask import dropout_mask
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
    column_norm: torch.Tensor | None = None,
) -> torch.Tensor:
    """`y = g * (x W^T + s (drop(x A^T)) B^T) + bias`, differentiable in all but q and the norm.

    x: [..., k], float32, bfloat16, float16 (float64 by the reference backend); q: a QuantizedTensor
    [n, k], or a plain frozen tensor for 16-bit LoRA; adapter: a [rank, k], b [n, rank]; bias: [n].
    Returns [..., n] of x's dtype; sums are accumulated in float32. With adapter.dropout > 0 it
    always drops; `seed` (64 bits, by default drawn from torch's generator) fixes the mask, which is
    `dropout_mask(seed, (m, rank or k), p)` with m the product of x's leading dimensions.

    g = magnitude / column_norm for an adapter with a magnitude, 1 without one or where the norm is
    0. column_norm: `dora_column_norm(q, adapter)` if the caller has it already. DoRA with dropout
    on the input is peft's: `y = (x - x') W^T + g * (x' W^T + s x' A^T B^T) + bias`, x' = drop(x).

    Raises InputError for shapes, dtypes or devices that do not fit, and for a dense q that wants a
    gradient.
    """
    _check(x, q, adapter, {"bias": bias, "column_norm": column_norm})
    if adapter is None or adapter.dropout == 0.0:
        seed = None
    elif seed is None:
        seed = torch.randint(2**62, (), dtype=torch.int64, device=x.device)
    else:
        seed = seed_tensor("qlora_linear", seed, x.device)
    if adapter is None or adapter.magnitude is None:
        return _qlora_linear(*Call(x, q, adapter, seed).flatten(), None, bias)
    norm = dora_column_norm(q, adapter) if column_norm is None else column_norm.detach()
    scale = _output_scale(adapter.magnitude, norm)
    if seed is None or adapter.dropout_on == "rank":
        return _qlora_linear(*Call(x, q, adapter, seed).flatten(), scale, bias)
    dropped = x * dropout_mask(seed, x.shape, adapter.dropout).to(x.dtype)
    rest = _qlora_linear(*Call(x - dropped, q, None, None).flatten(), None, bias)
    kept = replace(adapter, dropout=0.0)
    return rest + _qlora_linear(*Call(dropped, q, kept, None).flatten(), scale, None)


def _output_scale(magnitude: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """`magnitude / norm`, and a constant 1 where the norm is 0 and no scale could matter."""
    is_zero = norm == 0
    return torch.where(is_zero, 1.0, magnitude / torch.where(is_zero, 1.0, norm))


def _check(
    x: torch.Tensor, q: Base, adapter: Adapter | None, rows: dict[str, torch.Tensor | None]
) -> None:
    op = "qlora_linear"
    tensors = {"x": x, **rows}
    if isinstance(q, QuantizedTensor):
        q.check(op)
    elif q.requires_grad:
        raise InputError(f"{op}: the base weight should be frozen, was one that wants a gradient")
    rules = {name: (tensor, "n") for name, tensor in rows.items()}
    sizes = check_shapes(op, q=(q, "n k"), x=(x, "... k"), **rules)
    if adapter is not None:
        adapter.check(op)
        magnitude = adapter.magnitude
        check_shapes(
            op, sizes, a=(adapter.a, "r k"), b=(adapter.b, "n r"), magnitude=(magnitude, "n")
        )
        tensors |= {"a": adapter.a, "b": adapter.b, "magnitude": magnitude}
    if tensors["column_norm"] is not None and tensors.get("magnitude") is None:
        raise InputError(f"{op}: column_norm should come with a magnitude, came without one")
    for name, tensor in tensors.items():
        if tensor is not None:
            check_dtype(op, name, tensor, FLOATS)
            if tensor.device != q.device:
                raise InputError(f"{op}: {name} should be on {q.device}, was on {tensor.device}")


def _run(*arguments: Any) -> torch.Tensor:
    *flat, output_scale, bias = arguments
    call = Call.unflatten(*flat)
    kernel = _kernel(call)
    y: torch.Tensor = kernel.forward(
        call.rows, call.base, call.adapter, bias, call.seed, output_scale
    )
    return y.view(*call.x.shape[:-1], call.out_features)


def _fake(*arguments: Any) -> torch.Tensor:
    call = Call.unflatten(*arguments[:-2])
    return call.x.new_empty((*call.x.shape[:-1], call.out_features))


def _kernel(call: Call) -> ModuleType:
    return ROOM.choose(call.rows, call.base, call.adapter, call.seed)


def _run_backward(dy: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    *flat, scaled, output_scale, needs = arguments
    call, needs, needs_scale = Call.unflatten(*flat), Needs(*needs[:-1]), needs[-1]
    dy = dy.reshape(-1, call.out_features)
    dscale = _output_scale_gradient(call, dy, scaled, output_scale) if needs_scale else None
    dbias = None
    if output_scale is not None:
        dbias = dy.sum(dim=0) if needs.bias else None
        dy, needs = (dy * output_scale).to(dy.dtype), needs._replace(bias=False)
    gradients = _kernel(call).backward(dy, call.rows, call.base, call.adapter, call.seed, needs)
    dx = None if gradients.x is None else gradients.x.view(call.x.shape)
    dbias = gradients.bias if output_scale is None else dbias
    # An operator cannot return None, so what is not wanted comes back empty.
    wanted = (dx, gradients.a, gradients.b, dbias, dscale)
    return tuple(dy.new_empty(0) if g is None else g for g in wanted)


def _output_scale_gradient(
    call: Call, dy: torch.Tensor, scaled: torch.Tensor, output_scale: torch.Tensor
) -> torch.Tensor:
    """`sum dy * u` over the rows, from the saved `g * u`; u once more where g has erased it."""
    if (output_scale.abs() < _ERASING).any():
        u = _kernel(call).forward(call.rows, call.base, call.adapter, None, call.seed, None)
        return (dy * u.to(output_scale.dtype)).sum(dim=0)
    rows = scaled.reshape(-1, call.out_features).to(output_scale.dtype)
    gradient: torch.Tensor = (dy * rows).sum(dim=0) / output_scale
    return gradient


# Below it a product with g may leave float16's range.
_ERASING = 2.0**-10


def _fake_backward(dy: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    *flat, _, output_scale, needs = arguments
    call = Call.unflatten(*flat)
    a, b = (call.adapter.a, call.adapter.b) if call.adapter else (None, None)
    like = (call.x, a, b, dy.new_empty(call.out_features), output_scale)
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format)
        if needed and t is not None
        else dy.new_empty(0)
        for t, needed in zip(like, needs, strict=True)
    )


class _QLoRALinear(torch.autograd.Function):
    """Saves the codes, A and B, and x and y only where an adapter's gradient reads them."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        x, *rest, output_scale, bias = arguments
        needs, needs_scale = _needs(ctx.needs_input_grad)
        # A bias may be large beside u, so it is added to what is saved for the magnitude.
        added = bias if needs_scale else None
        with torch._C._AutoDispatchBelowAutograd():
            y = _qlora_linear(x, *rest, output_scale, None if needs_scale else bias)
        scaled = y if needs_scale else None
        if not (needs.a or needs.b or needs_scale):
            x = x.new_empty(1).expand(x.shape)  # its shape is all that backward reads
        saved = (x, *rest, scaled, output_scale)
        ctx.save_for_backward(*(t if isinstance(t, torch.Tensor) else None for t in saved))
        ctx.constants = [None if isinstance(t, torch.Tensor) else t for t in saved]
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y if added is None else y + added.to(y.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needs, needs_scale = _needs(ctx.needs_input_grad)
        saved = zip(ctx.saved_tensors, ctx.constants, strict=True)
        arguments = [constant if tensor is None else tensor for tensor, constant in saved]
        wanted = [*needs, needs_scale]
        gradients = _qlora_linear_backward(dy, *arguments, wanted)
        dx, da, db, dbias, dscale = (
            g if want else None for g, want in zip(gradients, wanted, strict=True)
        )
        result: list[torch.Tensor | None] = [None] * len(ctx.needs_input_grad)
        result[0], result[_A], result[_B], result[-2] = dx, da, db, dscale
        result[-1] = None if dbias is None else dbias.to(ctx.bias_dtype)
        return tuple(result)


_A = 1 + len(BASE_SCHEMA.split(","))
_B = _A + 1


def _needs(wanted: tuple[bool, ...]) -> tuple[Needs, bool]:
    """What the kernels are asked for, and whether the output scale wants a gradient."""
    return Needs(wanted[0], wanted[_A], wanted[_B], wanted[-1]), wanted[-2]


_qlora_linear: Callable[..., torch.Tensor] = define(
    f"qlora_linear({SCHEMA}, Tensor? output_scale, Tensor? bias) -> Tensor",
    _run,
    _fake,
    _QLoRALinear.apply,
)
_qlora_linear_backward = define(
    f"qlora_linear_backward(Tensor dy, {SCHEMA}, Tensor? scaled, Tensor? output_scale, "
    "bool[] needs) -> (Tensor dx, Tensor da, Tensor db, Tensor dbias, Tensor doutput_scale)",
    _run_backward,
    _fake_backward,
)
