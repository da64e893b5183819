"""`qlora_linear` and its gradients by the native CPU kernels, which never hold a dense W."""

import torch

from qlora_kernels import native
from qlora_kernels.formats import Adapter, Base, QuantizedTensor
from qlora_kernels.ops.qlora_linear.call import Gradients, Needs

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
    y = x.new_empty(x.shape[0], base.shape[0])
    bias = None if bias is None else bias.detach().to(x.dtype).contiguous()
    native.cpu().qlora_linear_forward(
        x.contiguous(),
        native.weight(base),
        (_contiguous(adapter), seed),
        (bias, None if output_scale is None else output_scale.detach().float().contiguous()),
        y,
        torch.get_num_threads(),
    )
    return y


def backward(
    dy: torch.Tensor,  # [m, n]
    x: torch.Tensor,  # [m, k]
    base: Base,
    adapter: Adapter | None,
    seed: torch.Tensor | None,
    needs: Needs,
) -> Gradients:
    """`dx = dy W + dh A`, `da = dh^T x`, `db = s dy^T h`, `dbias = sum dy`, with `dh = s dy B`."""
    adapter = _contiguous(adapter)
    gradients = Gradients(
        dy.new_empty(x.shape) if needs.x else None,
        torch.empty_like(adapter.a) if adapter and needs.a else None,
        torch.empty_like(adapter.b) if adapter and needs.b else None,
        dy.new_empty(base.shape[0]) if needs.bias else None,
    )
    reads_x = gradients.a is not None or gradients.b is not None
    native.cpu().qlora_linear_backward(
        dy.contiguous(),
        x.contiguous() if reads_x else None,
        native.weight(base),
        (adapter, seed),
        gradients,
        torch.get_num_threads(),
    )
    return gradients


def _contiguous(adapter: Adapter | None) -> Adapter | None:
    if adapter is None or (adapter.a.is_contiguous() and adapter.b.is_contiguous()):
        return adapter
    return Adapter(
        adapter.a.contiguous(),
        adapter.b.contiguous(),
        adapter.scaling,
        adapter.dropout,
        adapter.dropout_on,
    )
