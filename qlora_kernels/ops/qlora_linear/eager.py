"""The short way of a call: eager, on native kernels, with nothing between torch and us.

torch's dispatcher takes an operator's arguments apart, twice where gradients are wanted, and that
takes longer than decoding a small layer. So a call that nobody watches goes straight to the native
kernels, whose bindings check every tensor that they are given. What they do not take goes the long
way through torch's operator, which runs it or says what is wrong.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from operator import is_
from typing import Any
from weakref import ref

import torch
from torch._C import (
    _are_functorch_transforms_active,
    _is_tracing,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch.autograd import _profiler_enabled, forward_ad  # type: ignore[attr-defined]
from torch.compiler import is_compiling

from qlora_kernels import dispatch, native
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.native import telling_stale
from qlora_kernels.ops.qlora_linear import native_kernel
from qlora_kernels.ops.qlora_linear.call import Layer, Needs
from qlora_kernels.ops.qlora_linear.operator import run_backward

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PLAIN_OR_NONE = {*_PLAIN, type(None)}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Whether native kernels run here, and no other backend is forced.
may_run = partial(dispatch.may_run, native_kernel.BACKEND)


def run(x: torch.Tensor, layers: Sequence[Layer]) -> tuple[torch.Tensor, ...] | None:
    """y [..., n_i] of each layer, or None where the call must go the long way."""
    return _run(x, layers) if _takes(x) else None


def run_alone(
    x: torch.Tensor, q: Base, adapter: Adapter | None, bias: torch.Tensor | None
) -> torch.Tensor | None:
    """y [..., n] of one layer without dropout and magnitude, or None as `run` gives it.

    Where nobody wants a gradient no Layer is made: for one call it costs more than it keeps.
    """
    if not _takes(x):
        return None
    if adapter is not None and (adapter.dropout != 0.0 or adapter.magnitude is not None):
        return None
    weight = native.known_weight(q)
    if weight is None or _wants_gradients((x, *_trained(adapter, bias))):
        outputs = _run(x, (Layer(q, adapter, bias=bias),))
        return None if outputs is None else outputs[0]
    if not _fits(q, adapter, bias):
        return None
    try:
        return native_kernel.forward_known(x, weight, q.shape[0], adapter, bias)
    except (ValueError, TypeError, AttributeError):  # the long way meets it again and tells why
        return None


@telling_stale
def _run(x: torch.Tensor, layers: Sequence[Layer]) -> tuple[torch.Tensor, ...] | None:
    if not all(map(takes_layer, layers)):
        return None
    trained = [t for layer in layers for t in _trained(layer.adapter, layer.bias)]
    try:
        if _wants_gradients((x, *trained)):
            return _Eager.apply(layers, x, *trained)  # type: ignore[no-untyped-call, no-any-return]
        return tuple(native_kernel.forward_group(x, layers))
    except ValueError:
        return None


def _wants_gradients(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether autograd records a call that reads these tensors."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # any() of a generator would take longer than its answers
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def nobody_watches() -> bool:
    """No compiler, tracer, mode, transform, forward gradient or profiler wants to see the call."""
    return not (
        is_compiling()
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or _are_functorch_transforms_active()
        or _is_tracing()
        or forward_ad._current_level >= 0
        or _profiler_enabled()
    )


def _takes(x: torch.Tensor) -> bool:
    """A plain tensor on the CPU, unwatched, and a backend that may be ours."""
    return (
        nobody_watches()
        and may_run()
        and type(x) in _PLAIN
        and x.is_cpu
        and x.layout is torch.strided
        and x.numel() > 0
    )


def _has_values(dy: torch.Tensor) -> bool:
    """Whether a gradient's values lie in memory: those of is_grads_batched=True, or known to be
    zero or the negative of others, do not.
    """
    noted = dy.is_neg() or dy._is_zerotensor()
    return type(dy) in _PLAIN and torch._C._has_storage(dy) and not noted


def takes_layer(layer: Layer) -> bool:
    """Asked once of a layer, whose tensors stay the same; bindings read what these hold each time.

    Raises InputError for parts that do not belong together.
    """
    takes: bool | None = layer.__dict__.get("_takes")
    if takes is None:
        takes = layer.__dict__["_takes"] = _is_ours(layer)
    return takes


def _is_ours(layer: Layer) -> bool:
    base = layer.base
    if not isinstance(base, QuantizedTensor) or layer.output_scale is not None:
        return False
    if native.known_weight(base) is None:  # kernels look at every part of a known one anew
        base.check("qlora_linear")
    return type(layer.seed) in _PLAIN_OR_NONE and _fits(base, layer.adapter, layer.bias)


def _fits(base: Base, adapter: Adapter | None, bias: torch.Tensor | None) -> bool:
    """Whether the parts of a quantized [n, k], an adapter and a bias are what kernels can read.

    Raises InputError for an adapter whose parts do not belong together.
    """
    if adapter is not None:
        adapter.check("qlora_linear")
    assert isinstance(base, QuantizedTensor)
    codes = (base.codes, base.scales, base.nested_absmax, base.nested_offset)
    parts = (*codes, *_trained(adapter, bias))
    return (
        len(base.shape) == 2
        and (bias is None or bias.dtype in _DTYPES)
        and _PLAIN_OR_NONE.issuperset(map(type, parts))
    )


def _trained(adapter: Adapter | None, bias: torch.Tensor | None) -> tuple[Any, ...]:
    return (None, None, bias) if adapter is None else (adapter.a, adapter.b, bias)


class _Eager(torch.autograd.Function):
    """Saves what torch's operator saves, but as values that need no taking apart.

    Of the layers themselves it keeps weak references only: a tensor that it held would be hidden
    from hooks that move what is saved.
    """

    @staticmethod
    def forward(ctx: Any, layers: Sequence[Layer], x: torch.Tensor, *_: Any) -> Any:
        outputs = native_kernel.forward_group(x, layers)
        wants = ctx.needs_input_grad
        ctx.wanted = [Needs(wants[1], *wants[i : i + 3]) for i in range(2, len(wants), 3)]
        if not any(need.a or need.b for need in ctx.wanted):
            x = x.new_empty(1).expand(x.shape)  # its shape is all that backward reads
        ctx.save_for_backward(x, *chain.from_iterable(layer.tensors for layer in layers))
        ctx.layers = [ref(layer) for layer in layers]
        ctx.constants = [constant for layer in layers for constant in layer.constants]
        ctx.bias_dtypes = [None if layer.bias is None else layer.bias.dtype for layer in layers]
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors  # torch refuses here what has changed since forward
        layers = _saved_layers(ctx, tensors)
        if nobody_watches() and all(map(_has_values, dys)) and may_run():
            unscaled = [None] * len(dys)
            gradients = native_kernel.backward_group(dys, x, layers, ctx.wanted, unscaled)
        else:  # somebody watches, or has forced another backend, since forward
            gradients = run_backward(dys, x, layers, ctx.wanted)
        dx = gradients[0].x
        if dx is not None and dx.shape != x.shape:
            dx = dx.view(x.shape)
        parts = [None, dx]
        for g, dtype in zip(gradients, ctx.bias_dtypes, strict=True):
            parts += [g.a, g.b, None if g.bias is None else g.bias.to(dtype)]
        return tuple(parts)


def _saved_layers(ctx: Any, tensors: Sequence[torch.Tensor | None]) -> list[Layer]:
    """The layers of forward, or, where they are gone or a hook gave other tensors, new ones."""
    count = len(ctx.layers)
    width = len(ctx.constants) // count
    found = []
    for i, known in enumerate(ctx.layers):
        layer = known()
        own = tensors[i * Layer.NUM_TENSORS : (i + 1) * Layer.NUM_TENSORS]
        if layer is None or not all(map(is_, own, layer.tensors)):
            layer = Layer.of(own, ctx.constants[i * width : (i + 1) * width])
        found.append(layer)
    return found
