"""Our own layer without its magnitude: what DoRA costs over LoRA."""

from dataclasses import replace

from bench.kernels.case import Call, Expected
from bench.kernels.ops import dora_linear as dora_op
from bench.kernels.ops import qlora_linear as linear_op


def missing() -> str | None:
    return None


def dora_linear(p: dora_op.Problem) -> Call:
    call = linear_op.ours(_without_magnitude(p))
    return lambda: {_named(name): output for name, output in call().items()}


def expected(p: dora_op.Problem) -> dict[str, Expected]:
    """Other outputs than DoRA's have another truth."""
    truth = linear_op.expected(_without_magnitude(p))
    return {_named(name): output for name, output in truth.items()}


def _named(name: str) -> str:
    return f"{name} without magnitude"


def _without_magnitude(p: dora_op.Problem) -> linear_op.Problem:
    adapter = p.linear.adapter
    assert adapter is not None
    return replace(p.linear, adapter=replace(adapter, magnitude=None))
