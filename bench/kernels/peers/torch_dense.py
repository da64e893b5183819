"""torch with a dense weight in the case's dtype, without adapter: what 4 bits compete with."""

import torch

import qlora_kernels as qk
from bench.kernels.case import Call
from bench.kernels.ops import adamw8bit as adamw_op
from bench.kernels.ops import dora_column_norm as norm_op
from bench.kernels.ops import linear_cross_entropy as loss_op
from bench.kernels.ops import qlora_linear as linear_op


def missing() -> str | None:
    return None


def qlora_linear(p: linear_op.Problem) -> Call:
    """`F.linear(x, W)` over the very values of the codes."""
    w = qk.dequantize(p.q, p.x.dtype)
    call = linear_op.differentiated(lambda: torch.nn.functional.linear(p.x, w), {"dx": p.x}, p)
    return without_adapter(call, p)


qlora_linear_repeated = qlora_linear


def without_adapter(call: Call, p: linear_op.Problem) -> Call:
    """Renames the outputs of a bare base layer: they have another truth than the adapted one's."""
    if p.adapter is None:
        return call
    return lambda: {f"base_{name}": t for name, t in call().items()}


def dora_column_norm(p: norm_op.Problem) -> Call:
    """Dequantize, add the dense product, take the norm: peft's way."""
    return lambda: {"norm": norm_op.dense_norm(p, torch.float32)}


def linear_cross_entropy(p: loss_op.Problem) -> Call:
    """Logits whole."""
    return loss_op.differentiated(lambda: loss_op.plain(p.hidden, p.head, p.labels), p)


def adamw8bit(p: adamw_op.Problem) -> Call:
    """The fused implementation, with states in the parameters' dtype."""
    parameters = p.parameters()
    made = torch.optim.AdamW(parameters, **adamw_op.SETTINGS, fused=True)
    return adamw_op.stepping(made, parameters)
