"""`dora_column_norm` by the native CPU kernel, which decodes each row of W once."""

import torch

from qlora_kernels import native
from qlora_kernels.formats import Adapter, Base, QuantizedTensor

BACKEND = "cpu"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuses(base: Base, adapter: Adapter) -> str | None:
    """Takes float32, bfloat16 and float16 factors on the CPU, over a quantized base weight."""
    if adapter.a.device.type != "cpu":
        return f"a is on {adapter.a.device}"
    if not isinstance(base, QuantizedTensor):
        return "the base weight is dense"
    factors = {"a": adapter.a, "b": adapter.b}
    wrong = [f"{name} is {t.dtype}" for name, t in factors.items() if t.dtype not in _DTYPES]
    return wrong[0] if wrong else None


def column_norm(base: Base, adapter: Adapter) -> torch.Tensor:
    """`sqrt(|W_n|^2 + 2 s <W_n A^T, B_n> + s^2 <B_n A A^T, B_n>)`, [n]."""
    factors = Adapter(adapter.a.contiguous(), adapter.b.contiguous(), adapter.scaling)
    norm = torch.empty(base.shape[0], dtype=torch.float32)
    native.cpu().dora_column_norm(native.weight(base), factors, norm, torch.get_num_threads())
    return norm
