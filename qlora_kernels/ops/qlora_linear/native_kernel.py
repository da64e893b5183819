"""`qlora_linear` and its gradients by the native CPU kernels, which never hold a dense W."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from qlora_kernels import native
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.ops.qlora_linear.call import Gradients, Layer, Needs
from qlora_kernels.ops.qlora_linear.output_scale import factor_of_gradient

BACKEND = "cpu"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuses(
    x: torch.Tensor, base: Base, adapter: Adapter | None, seed: torch.Tensor | None
) -> str | None:
    """Takes float32, bfloat16 and float16 on the CPU, over a quantized base weight."""
    if x.device.type != "cpu":
        return f"x is on {x.device}"
    if not isinstance(base, QuantizedTensor):
        return "the base weight is dense"
    tensors = {"x": x} | ({"a": adapter.a, "b": adapter.b} if adapter else {})
    wrong = [f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype not in _DTYPES]
    return wrong[0] if wrong else None


def forward(
    x: torch.Tensor,  # [m, k]
    base: Base,  # [n, k]
    adapter: Adapter | None,
    bias: torch.Tensor | None,  # [n]
    seed: torch.Tensor | None,
    output_scale: torch.Tensor | None = None,  # [n]
) -> torch.Tensor:
    """`y = g * (x W^T + s (drop(x A^T)) B^T) + bias`, [m, n], with g the output scale or 1."""
    return forward_group(x, [Layer(base, adapter, seed, output_scale, bias)])[0]


def forward_group(x: torch.Tensor, layers: Sequence[Layer]) -> list[torch.Tensor]:
    """y of every layer that reads x, [..., n_i]; x is packed once for all of them."""
    outputs = [_output(x, layer.base.shape[0]) for layer in layers]
    forward = native.cpu().qlora_linear_forward
    forward(x.contiguous(), views(layers, outputs), torch.get_num_threads())
    return outputs


def forward_known(
    x: torch.Tensor,  # [..., k]
    weight: Any,
    n: int,
    adapter: Adapter | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """`x W^T + s (x A^T) B^T + bias`, [..., n], of the native.weight of a base."""
    y = _output(x, n)
    view = _view(weight, adapter, None, bias, None, y)
    native.cpu().qlora_linear_forward(x.contiguous(), [view], torch.get_num_threads())
    return y


def views(layers: Sequence[Layer], outputs: Sequence[torch.Tensor]) -> list[tuple[Any, ...]]:
    """Layers and their y, of x's dtype, as the kernel of the forward takes them."""
    return [
        _view(native.weight(layer.base), layer.adapter, layer.seed, layer.bias, _scale(layer), y)
        for layer, y in zip(layers, outputs, strict=True)
    ]


def _output(x: torch.Tensor, n: int) -> torch.Tensor:
    *rows, _ = x.shape  # a slice of it, or a list for new_empty, takes longer
    return x.new_empty(*rows, n)


def _view(
    weight: Any,
    adapter: Adapter | None,
    seed: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    y: torch.Tensor,
) -> tuple[Any, ...]:
    if bias is not None and not (bias.dtype == y.dtype and bias.is_contiguous()):
        bias = bias.detach().to(y.dtype).contiguous()
    return weight, (_contiguous(adapter), seed), (bias, scale), y


def backward(
    dy: torch.Tensor,  # [m, n]
    x: torch.Tensor,  # [m, k]
    base: Base,
    adapter: Adapter | None,
    seed: torch.Tensor | None,
    needs: Needs,
) -> Gradients:
    """`dx = dy W + dh A`, `da = dh^T x`, `db = s dy^T h`, `dbias = sum dy`, with `dh = s dy B`."""
    return backward_group([dy], x, [Layer(base, adapter, seed)], [needs], [None])[0]


def backward_group(
    dys: Sequence[torch.Tensor],  # [m, n_i]
    x: torch.Tensor,  # [m, k]
    layers: Sequence[Layer],
    needs: Sequence[Needs],
    scaled: Sequence[torch.Tensor | None],  # g u of each, [m, n_i], where g wants a gradient
) -> list[Gradients]:
    """Gradients of every layer; that of x is their sum, and stands with the first layer's."""
    dx = x.new_empty(x.shape) if any(need.x for need in needs) else None
    gradients, views, divisors, reads_x = [], [], [], False
    for dy, layer, need, gu in zip(dys, layers, needs, scaled, strict=True):
        adapter = layer.adapter
        da = torch.empty_like(adapter.a, memory_format=_PACKED) if adapter and need.a else None
        db = torch.empty_like(adapter.b, memory_format=_PACKED) if adapter and need.b else None
        dbias = dy.new_empty(layer.base.shape[0]) if need.bias else None
        factor = divisor = dscale = None
        if need.output_scale and gu is not None:
            factor, divisor = factor_of_gradient(forward, x, layer, gu)
            factor, dscale = factor.contiguous(), factor.new_empty(dy.shape[1], dtype=torch.float32)
        gradients.append(Gradients(None, da, db, dbias, dscale))
        divisors.append(divisor)
        views.append(
            (
                dy.contiguous(),
                native.weight(layer.base),
                (_contiguous(adapter), layer.seed),
                (_scale(layer), factor),
                gradients[-1],
            )
        )
        reads_x |= da is not None or db is not None
    native.cpu().qlora_linear_backward(
        x.contiguous() if reads_x else None, dx, views, torch.get_num_threads()
    )
    for gradient, divisor in zip(gradients, divisors, strict=True):
        if divisor is not None and gradient.output_scale is not None:
            gradient.output_scale.div_(divisor)
    return [gradients[0]._replace(x=dx), *gradients[1:]]


_PACKED = torch.contiguous_format


def _scale(layer: Layer) -> torch.Tensor | None:
    scale = layer.output_scale
    return None if scale is None else scale.detach().float().contiguous()


def _contiguous(adapter: Adapter | None) -> Adapter | None:
    """The adapter with factors that a kernel can walk."""
    if adapter is None or (adapter.a.is_contiguous() and adapter.b.is_contiguous()):
        return adapter
    return replace(adapter, a=adapter.a.contiguous(), b=adapter.b.contiguous())
