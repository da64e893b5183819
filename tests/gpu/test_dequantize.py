"""Decoded values on the GPU are the CPU's, bit for bit."""

import pytest
import torch

import qlora_kernels as qk
from gpu.placed import forced, some
from qlora_kernels.testing.cases import FLOAT_DTYPES

SIZES = some((1, 65, 4097, 0, 31, 64, 8192, 20001, 1 << 20))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("format", ["nf4", "fp4", "int8"])
def test_bits(device: str, format: str, double_quant: bool, dtype: torch.dtype):
    for block_size in (64, 4096):
        for size in SIZES:
            w = torch.randn(size, generator=torch.Generator().manual_seed(size))
            q = qk.quantize(w, format, block_size, double_quant)
            with forced():
                ours = qk.dequantize(q.to(device), dtype)
            assert torch.equal(ours.cpu(), qk.dequantize(q, dtype)), (block_size, size)


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    q = qk.quantize(torch.randn(4097)).to(device)
    with forced():
        assert qk.dequantize(q).isfinite().all()
