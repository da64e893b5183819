"""Our own layer without its adapter: what LoRA costs over the frozen linear layer."""

from dataclasses import replace

from bench.kernels.case import Call
from bench.kernels.ops import qlora_linear as linear_op
from bench.kernels.peers.torch_dense import without_adapter


def missing() -> str | None:
    return None


def qlora_linear(p: linear_op.Problem) -> Call:
    return without_adapter(linear_op.ours(replace(p, adapter=None)), p)
