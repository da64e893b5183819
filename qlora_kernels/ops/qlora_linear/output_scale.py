"""The gradient of the output scale g, and of a kernel whose backward knows none.

    dg = sum dy * u = sum dy * (g u) / g,    and g * dy stands for dy in the other gradients

Backward holds `g u`, which is y without its bias, and a g of 0 erases u. On a CPU it is asked
whether there is one, and u is made once more. To ask a GPU is to wait for it: there such a g is
2^-60 instead, far below what y shows, and the range of float32 and bfloat16 keeps u. Float16's does
not, so it asks, or makes u once more where a CUDA graph is captured and asking is forbidden.
"""

from collections.abc import Callable
from types import ModuleType

import torch

from qlora_kernels.gpu.availability import capturing
from qlora_kernels.ops.qlora_linear.call import Gradients, Layer, Needs

_ERASING = 2.0**-10  # below it a product with g may leave float16's range
_LEAST = 2.0**-60


def kept_from_zero(g: torch.Tensor) -> torch.Tensor:
    """g as the forward takes it: on a GPU with `_LEAST` for what is nearer to zero."""
    return g if _may_ask(g) else torch.where(g.abs() < _LEAST, _LEAST, g)


def _may_ask(tensor: torch.Tensor) -> bool:
    """Whether reading a value costs nothing."""
    return not tensor.is_cuda and not capturing()


def factor_of_gradient(
    forward: Callable[..., torch.Tensor], rows: torch.Tensor, layer: Layer, scaled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(what dy is multiplied with [m, n], what the sum is divided by or None).

    The saved `g u` and g; where g has erased it, u once more.
    """
    g = layer.output_scale
    assert g is not None
    asks = _may_ask(g) or scaled.dtype == torch.float16
    if asks and (capturing() or (g.abs() < _ERASING).any()):
        return forward(rows, layer.base, layer.adapter, None, layer.seed, None), None
    return scaled.reshape(-1, layer.out_features), g


def backward(
    kernel: ModuleType,
    dy: torch.Tensor,  # [m, n]
    rows: torch.Tensor,  # [m, k]
    layer: Layer,
    needs: Needs,
    scaled: torch.Tensor | None,
) -> Gradients:
    """Gradients of one layer by a kernel that takes no output scale in backward."""
    g = layer.output_scale
    if g is None:
        plain: Gradients = kernel.backward(dy, rows, layer.base, layer.adapter, layer.seed, needs)
        return plain
    dscale = None
    if needs.output_scale and scaled is not None:
        factor, divisor = factor_of_gradient(kernel.forward, rows, layer, scaled)
        dscale = (dy * factor.to(g.dtype)).sum(dim=0)
        dscale = dscale if divisor is None else dscale / divisor
    gradients: Gradients = kernel.backward(
        (dy * g).to(dy.dtype),
        rows,
        layer.base,
        layer.adapter,
        layer.seed,
        needs._replace(bias=False),
    )
    dbias = dy.sum(dim=0) if needs.bias else None
    return gradients._replace(bias=dbias, output_scale=dscale)
