"""torchao's NF4Tensor: decoded by tensor operations, then a plain product; it has no adapters.

It quantizes by itself, scales in another way than bitsandbytes: its truth is its own weight.
"""

from functools import lru_cache
from typing import Any

import torch

import qlora_kernels as qk
from bench.kernels.case import Call, Expected
from bench.kernels.ops import qlora_linear as linear_op
from bench.kernels.peers import import_refusal
from bench.kernels.peers.torch_dense import without_adapter


def missing() -> str | None:
    return import_refusal("torchao.quantization")


@lru_cache(maxsize=1)
def _weight(p: linear_op.Problem) -> Any:
    """NF4Tensor [n, k]: blocks of 64 under groups of 256, as bitsandbytes has them."""
    from torchao.quantization import to_nf4

    if p.case.format != "nf4":
        raise NotImplementedError(f"has no {p.case.format}")
    return to_nf4(qk.dequantize(p.q, p.x.dtype), 64, 256)


def qlora_linear(p: linear_op.Problem) -> Call:
    """The base alone."""
    w = _weight(p)
    call = linear_op.differentiated(lambda: torch.nn.functional.linear(p.x, w), {"dx": p.x}, p)
    return without_adapter(call, p)


def expected(p: linear_op.Problem) -> dict[str, Expected]:
    """y = x W^T and dx = dy W in sampled rows, over its own weight."""
    w, rows = _weight(p).get_original_weight(), linear_op.sampled_rows(p)
    x, dy = p.x.detach()[rows], p.dy[rows]
    prefix = "base_" if p.adapter else ""
    return {
        f"{prefix}y": Expected(x.double() @ w.double().t(), x @ w.t(), rows),
        f"{prefix}dx": Expected(dy.double() @ w.double(), dy @ w, rows),
    }
