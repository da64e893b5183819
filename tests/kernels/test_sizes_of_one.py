"""A size that is 1 becomes a constant when Triton compiles: kernels may not take it for a tensor.

The interpreter has no such constants, and a compile case has sizes of large layers.
"""

from dataclasses import replace

import pytest

from bench.compile_gate.command import cases, rooms
from qlora_kernels.gpu.availability import interpreting
from qlora_kernels.gpu.compile_case import CompileCase

HOPPER = 90


def with_ones(case: CompileCase) -> CompileCase:
    """The case, all of its sizes 1."""
    ones = {name: 1 for name, kind in case.signature.items() if kind in ("i32", "i64")}
    ones.pop("threshold", None)  # of a mask: no size
    return replace(
        case,
        signature={**case.signature, **dict.fromkeys(ones, "constexpr")},
        constexprs={**case.constexprs, **ones},
        aligned=tuple(name for name in case.aligned if name not in ones),
    )


@pytest.mark.parametrize("op", [op for op in rooms() if op != "adamw"])
def test_kernels_compile(op: str):
    if interpreting():
        pytest.skip("nothing is compiled under the interpreter")
    last = {case.name: case for case in cases(op)}  # of each kernel
    for case in last.values():
        assert with_ones(case).compile(HOPPER).asm["cubin"], case.name
