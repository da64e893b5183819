"""The torch operators behind `qlora_linear`: one for each number of layers that read the same x.

A group is one call of a kernel that can share x among its layers (`forward_group`), and a call for
each layer of one that cannot. Gradients take the same way; that of x is summed over the layers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch

from qlora_kernels.dispatch import Room, define
from qlora_kernels.ops.qlora_linear import (
    cuda_kernel,
    native_kernel,
    output_scale,
    reference,
    triton_kernel,
)
from qlora_kernels.ops.qlora_linear.call import NAMES, SCHEMA, Gradients, Layer, Needs, layers_of

ROOM = Room("qlora_linear", native_kernel, triton_kernel, cuda_kernel, reference)
GRADIENTS = Room("qlora_linear_backward", native_kernel, triton_kernel, reference)
GROUP_SIZES = (1, 2, 3)


class Wanted(NamedTuple):
    """Which gradients of one layer are wanted."""

    a: bool
    b: bool
    output_scale: bool
    bias: bool


_FROM_BIAS_TO_SCALE = NAMES.index("output_scale") - NAMES.index("bias")
_PLACES = [NAMES.index(name) for name in Wanted._fields]


def _kernels(room: Room, rows: torch.Tensor, layers: Sequence[Layer]) -> list[ModuleType]:
    return [room.choose(rows, layer.base, layer.adapter, layer.seed) for layer in layers]


def _shared(kernels: Sequence[ModuleType], function: str) -> Callable[..., Any] | None:
    """The function of a kernel that runs all layers, if they agree on it and it has one."""
    return getattr(kernels[0], function, None) if len(set(kernels)) == 1 else None


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _forward(x: torch.Tensor, *arguments: Any) -> list[torch.Tensor]:
    """y of each layer, shaped as x."""
    rows, layers = _rows(x), layers_of(arguments)
    kernels = _kernels(ROOM, rows, layers)
    if group := _shared(kernels, "forward_group"):
        outputs = group(rows, layers)
    else:
        outputs = [
            kernel.forward(
                rows, layer.base, layer.adapter, layer.bias, layer.seed, layer.output_scale
            )
            for kernel, layer in zip(kernels, layers, strict=True)
        ]
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in outputs]


def _fake_forward(x: torch.Tensor, *arguments: Any) -> list[torch.Tensor]:
    return [x.new_empty((*x.shape[:-1], layer.out_features)) for layer in layers_of(arguments)]


def _backward(count: int, *arguments: Any) -> tuple[torch.Tensor, ...]:
    """dx, then da, db, d output_scale and dbias of each layer."""
    dys, scaled, needs_x, wanted, x, layers = _take_backward_apart(count, arguments)
    needs = [Needs(needs_x, want.a, want.b, want.bias, want.output_scale) for want in wanted]
    gradients = kernel_gradients(dys, _rows(x), layers, needs, scaled)
    parts = [gradients[0].x if gradients[0].x is None else gradients[0].x.view(x.shape)]
    for g in gradients:
        parts += [g.a, g.b, g.output_scale, g.bias]
    # An operator cannot return None, so what is not wanted comes back empty.
    return tuple(x.new_empty(0) if part is None else part for part in parts)


def kernel_gradients(
    dys: Sequence[torch.Tensor],
    rows: torch.Tensor,
    layers: Sequence[Layer],
    needs: Sequence[Needs],
    scaled: Sequence[torch.Tensor | None],
) -> list[Gradients]:
    """Of each layer; the first one's `x` is the sum over the layers."""
    kernels = _kernels(GRADIENTS, rows, layers)
    if group := _shared(kernels, "backward_group"):
        return list(group(dys, rows, layers, needs, scaled))
    calls = zip(kernels, dys, layers, needs, scaled, strict=True)
    gradients = [
        output_scale.backward(kernel, dy, rows, layer, need, gu)
        for kernel, dy, layer, need, gu in calls
    ]
    dx = gradients[0].x
    for other in gradients[1:]:
        dx = dx if dx is None or other.x is None else dx + other.x
    return [gradients[0]._replace(x=dx), *gradients[1:]]


def _take_backward_apart(count: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """(dys [m, n_i], the saved g * u, dx wanted?, Wanted of each, x, layers) of `_backward`."""
    needs_x, *flags = arguments[-1]
    wanted = [Wanted(*flags[i : i + 4]) for i in range(0, 4 * count, 4)]
    x, *flat = arguments[2 * count : -1]
    layers = layers_of(tuple(flat))
    pairs = zip(arguments[:count], layers, strict=True)
    dys = [dy.reshape(-1, layer.out_features) for dy, layer in pairs]
    return dys, arguments[count : 2 * count], needs_x, wanted, x, layers


def _fake_backward(count: int, *arguments: Any) -> tuple[torch.Tensor, ...]:
    dys, _, needs_x, wanted, x, layers = _take_backward_apart(count, arguments)
    like = [(x, needs_x)]
    for dy, layer, need in zip(dys, layers, wanted, strict=True):
        a, b = (layer.adapter.a, layer.adapter.b) if layer.adapter else (None, None)
        values = (a, b, layer.output_scale, dy.new_empty(layer.out_features))
        like += zip(values, need, strict=True)
    return tuple(
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        if needed and tensor is not None
        else x.new_empty(0)
        for tensor, needed in like
    )


class _QLoRALinear(torch.autograd.Function):
    """Saves the codes, A and B, and x and y only where an adapter's gradient reads them."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[torch.Tensor, ...]:
        x, *flat = arguments
        wanted = _wanted(ctx.needs_input_grad)
        places = [i * len(NAMES) + len(NAMES) - 1 for i in range(len(wanted))]
        biases = [flat[place] for place in places]
        # A bias may be large beside u, so it is added to what is saved for the magnitude; and where
        # nothing is saved too, since a checkpoint's two forwards must agree.
        scaled_places = {p for p in places if flat[p + _FROM_BIAS_TO_SCALE] is not None}
        for place in scaled_places:
            flat[place] = None
            scale = flat[place + _FROM_BIAS_TO_SCALE]
            flat[place + _FROM_BIAS_TO_SCALE] = output_scale.kept_from_zero(scale)
        with torch._C._AutoDispatchBelowAutograd():
            outputs = _FORWARD[len(wanted)](x, *flat)
        scaled = [y if need.output_scale else None for y, need in zip(outputs, wanted, strict=True)]
        if not any(need.a or need.b or need.output_scale for need in wanted):
            x = x.new_empty(1).expand(x.shape)  # its shape is all that backward reads
        saved = [*scaled, x, *flat]
        for place in places:
            saved[len(scaled) + 1 + place] = None  # backward needs no more than the wish for it
        ctx.save_for_backward(*(t if isinstance(t, torch.Tensor) else None for t in saved))
        ctx.constants = [None if isinstance(t, torch.Tensor) else t for t in saved]
        ctx.bias_dtypes = [None if bias is None else bias.dtype for bias in biases]
        return tuple(
            y + bias.to(y.dtype) if place in scaled_places and bias is not None else y
            for y, bias, place in zip(outputs, biases, places, strict=True)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        wanted = _wanted(ctx.needs_input_grad)
        flags = [ctx.needs_input_grad[0], *(flag for need in wanted for flag in need)]
        saved = zip(ctx.saved_tensors, ctx.constants, strict=True)
        arguments = [constant if tensor is None else tensor for tensor, constant in saved]
        parts = _BACKWARD[len(dys)](*dys, *arguments, flags)
        dx, *rest = (g if flag else None for g, flag in zip(parts, flags, strict=True))
        result: list[torch.Tensor | None] = [None] * len(ctx.needs_input_grad)
        result[0] = dx
        for i, dtype in enumerate(ctx.bias_dtypes):
            *gradients, dbias = rest[4 * i : 4 * i + 4]
            gradients.append(None if dbias is None else dbias.to(dtype))
            for place, gradient in zip(_PLACES, gradients, strict=True):
                result[1 + i * len(NAMES) + place] = gradient
        return tuple(result)


def _wanted(needs_input_grad: Sequence[bool]) -> list[Wanted]:
    starts = range(1, len(needs_input_grad), len(NAMES))
    return [Wanted(*(needs_input_grad[start + place] for place in _PLACES)) for start in starts]


def _define(count: int) -> tuple[Any, Any]:
    """The operators, forward and backward, of `count` layers over one x."""
    name = "qlora_linear" if count == 1 else f"qlora_linear_of_{count}"
    numbers = range(count)
    layers = ", ".join(_numbered(SCHEMA, i) for i in numbers)
    dys = ", ".join(f"Tensor dy_{i}" for i in numbers)
    scaled = ", ".join(f"Tensor? scaled_{i}" for i in numbers)
    outputs = ", ".join(f"Tensor y_{i}" for i in numbers)
    gradients = ", ".join(
        _numbered("Tensor a, Tensor b, Tensor g, Tensor bias", i) for i in numbers
    )
    forward = define(
        f"{name}(Tensor x, {layers}) -> ({outputs})",
        lambda *arguments: _result(_forward(*arguments)),
        lambda *arguments: _result(_fake_forward(*arguments)),
        lambda *arguments: _result(_QLoRALinear.apply(*arguments)),  # type: ignore[no-untyped-call]
    )
    backward = define(
        f"{name}_backward({dys}, {scaled}, Tensor x, {layers}, bool[] needs)"
        f" -> (Tensor dx, {gradients})",
        partial(_backward, count),
        partial(_fake_backward, count),
    )
    return lambda *arguments: _tuple(forward(*arguments)), backward


def _numbered(schema: str, number: int) -> str:
    return ", ".join(f"{argument}_{number}" for argument in schema.split(", "))


def _result(outputs: Sequence[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """As an operator returns them: a single one bare."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else outputs


_OPERATORS = {count: _define(count) for count in GROUP_SIZES}
_FORWARD: dict[int, Callable[..., tuple[torch.Tensor, ...]]]
_FORWARD = {count: forward for count, (forward, _) in _OPERATORS.items()}
_BACKWARD: dict[int, Callable[..., tuple[torch.Tensor, ...]]]
_BACKWARD = {count: backward for count, (_, backward) in _OPERATORS.items()}


def run(x: torch.Tensor, layers: Sequence[Layer]) -> tuple[torch.Tensor, ...]:
    """y [..., n_i] of each layer, through torch's dispatcher."""
    return _FORWARD[len(layers)](x, *(part for layer in layers for part in layer.flatten()))


def run_backward(
    dys: Sequence[torch.Tensor], x: torch.Tensor, layers: Sequence[Layer], needs: Sequence[Needs]
) -> list[Gradients]:
    """Of layers without output scales, through torch's dispatcher; the first one's `x` is the sum
    over the layers.
    """
    wanted = [Wanted(need.a, need.b, need.output_scale, need.bias) for need in needs]
    flags = [needs[0].x, *(flag for want in wanted for flag in want)]
    flat = (part for layer in layers for part in layer.flatten())
    parts = _BACKWARD[len(dys)](*dys, *(None for _ in dys), x, *flat, flags)
    dx, *rest = (part if flag else None for part, flag in zip(parts, flags, strict=True))
    each = [dict(zip(Wanted._fields, rest[i : i + 4], strict=True)) for i in range(0, len(rest), 4)]
    return [Gradients(x=None if i else dx, **own) for i, own in enumerate(each)]
