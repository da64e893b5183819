"""The number of threads decides how fast the native kernels are, and not a bit of the result."""

from dataclasses import replace

import pytest
import torch

import qlora_kernels as qk
from ops.linear_formula import op, outputs
from qlora_kernels.formats import Adapter
from qlora_kernels.ops.qlora_linear import native_kernel
from qlora_kernels.ops.qlora_linear.call import Layer, Needs
from qlora_kernels.testing.cases import FLOAT_DTYPES, LINEAR_CASES, LinearCase, linear_problem

WIDE = LinearCase(13, 1000, 640, rank=8, bias=True)  # parts for all, taken by who is free


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_linear(dtype: torch.dtype):
    for case in (*LINEAR_CASES, WIDE):
        problem = linear_problem(replace(case, m=3 * case.m), dtype)
        with qk.use_backend("cpu"):
            alone = outputs(op, problem)
            for threads in (2, 3, 2):
                torch.set_num_threads(threads)
                for name, tensor in outputs(op, problem).items():
                    assert torch.equal(tensor, alone[name]), f"{case} {name} on {threads} threads"
            torch.set_num_threads(1)


@pytest.mark.parametrize("m, k, ranks", [(31, 1024, (33, 8)), (7, 2048, (48, 1))])
def test_layers_of_different_ranks(m: int, k: int, ranks: tuple[int, int]):
    """Threads go on to the next layer without waiting: each may overwrite nothing that another one
    still reads. What they meet is up to chance, hence many layers and calls.
    """
    x, dy, q = torch.randn(m, k), torch.randn(m, 8), qk.quantize(torch.randn(8, k))
    adapters = [Adapter(torch.randn(r, k), torch.randn(8, r), 1.0) for r in ranks * 16]
    layers = [Layer(q, adapter) for adapter in adapters]
    count = len(layers)

    def results() -> list[torch.Tensor]:
        ys = native_kernel.forward_group(x, layers)
        needs = [Needs(True, True, True, False)] * count
        gradients = native_kernel.backward_group([dy] * count, x, layers, needs, [None] * count)
        return [*ys, *(tensor for each in gradients for tensor in each if tensor is not None)]

    alone = results()
    torch.set_num_threads(3)
    for _ in range(20):
        for ours, expected in zip(results(), alone, strict=True):
            assert torch.equal(ours, expected)
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
