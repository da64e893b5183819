"""What unsloth's LoRA_W does, over torch: the weight decoded into one buffer, then plain products.

    forward    W -> buffer; y = x W^T; y += s (x A^T) B^T in place (addmm_)
    backward   dA = s (dy B)^T x, dB = s dy^T (x A^T) with x A^T computed again; W -> buffer;
               dx = dy W; dx += s (dy B) A in place

unsloth itself runs on GPUs alone. A and B are in the case's dtype. bitsandbytes decodes into a
given buffer on a GPU; on a CPU it takes none, so there our own `dequantize` stands in, which is
faster.
Source: unsloth/kernels/utils.py `matmul_lora`, fast_lora.py `LoRA_W`.
"""

from collections.abc import Callable
from typing import Any

import torch

import qlora_kernels as qk
from bench.kernels.case import Call
from bench.kernels.ops import qlora_linear as linear_op
from bench.kernels.peers import bitsandbytes_layers
from bench.kernels.peers.torch_dense import without_adapter

Decode = Callable[[], torch.Tensor]


def missing() -> str | None:
    return bitsandbytes_layers.missing()


def decoder(q: qk.QuantizedTensor, dtype: torch.dtype) -> Decode:
    """Codes to a dense weight [n, k], always in the same memory."""
    buffer = torch.empty(q.shape, dtype=dtype, device=q.device)
    if q.device.type == "cpu":
        return lambda: qk.dequantize(q, out=buffer)
    from bitsandbytes.functional import dequantize_4bit

    codes, state = bitsandbytes_layers.codes_and_state(q)
    return lambda: dequantize_4bit(codes, state, out=buffer)


class LoRAW(torch.autograd.Function):
    """`decode` and `scaling` are passed through; a is [rank, k], b is [n, rank]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: Any) -> Any:
        decode, scaling = base
        ctx.save_for_backward(x, a, b)
        ctx.base = base
        y = x @ decode().t()
        return y.addmm_(x @ a.t(), b.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy,), (x, a, b), (decode, scaling) = gradients, ctx.saved_tensors, ctx.base
        da, db = torch.empty_like(a), torch.empty_like(b)
        dh = dy @ b  # [m, rank]
        da.addmm_(dh.t(), x, alpha=scaling, beta=0)
        db.addmm_(dy.t(), x @ a.t(), alpha=scaling, beta=0)
        dx = dy @ decode()
        return dx.addmm_(dh, a, alpha=scaling), da, db, None


def qlora_linear(p: linear_op.Problem) -> Call:
    decode = decoder(p.q, p.x.dtype)
    if p.adapter is None:
        call = linear_op.differentiated(lambda: p.x @ decode().t(), {"dx": p.x}, p)
        return without_adapter(call, p)
    a, b = (
        t.detach().to(p.x.dtype).requires_grad_(p.case.trains) for t in (p.adapter.a, p.adapter.b)
    )
    base = (decode, p.adapter.scaling)
    leaves = {"dx": p.x, "da": a, "db": b}
    return linear_op.differentiated(lambda: LoRAW.apply(p.x, a, b, base), leaves, p)
