"""The number of threads decides how fast the native kernels are, and not a bit of the result."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from ops.linear_formula import op, outputs
from qlora_kernels.testing.cases import FLOAT_DTYPES, LINEAR_CASES, linear_problem


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_linear(dtype: torch.dtype):
    for case in LINEAR_CASES:
        problem = linear_problem(replace(case, m=3 * case.m), dtype)
        with qk.use_backend("cpu"):
            alone = outputs(op, problem)
            for threads in (2, 3, 2):
                torch.set_num_threads(threads)
                for name, tensor in outputs(op, problem).items():
                    assert torch.equal(tensor, alone[name]), f"{case} {name} on {threads} threads"
            torch.set_num_threads(1)


@pytest.mark.parametrize("format", ["nf4", "fp4", "int8"])
def test_quantize_and_dequantize(format: str):
    w = torch.randn(301, 999)
    with qk.use_backend("cpu"):
        alone = qk.quantize(w, format)
        values = qk.dequantize(alone)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            q = qk.quantize(w, format)
            assert torch.equal(q.codes, alone.codes) and torch.equal(q.scales, alone.scales)
            assert torch.equal(q.nested_absmax, alone.nested_absmax)
            assert torch.equal(qk.dequantize(q), values)
