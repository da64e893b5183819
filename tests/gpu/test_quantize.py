"""Codes and scales on the GPU are the CPU's, bit for bit."""

import pytest
import torch

import qlora_kernels as qk
from gpu.placed import forced, some
from qlora_kernels.testing.cases import FLOAT_DTYPES

SIZES = some((1, 65, 4097, 31, 64, 8192, 20001, 1 << 20))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("format", ["nf4", "fp4", "int8"])
def test_bits(device: str, format: str, double_quant: bool, dtype: torch.dtype):
    for block_size in (64, 4096):
        for size in SIZES:
            w = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
            w[::7] = 0.0
            expected = qk.quantize(w, format, block_size, double_quant)
            with forced():
                ours = qk.quantize(w.to(device), format, block_size, double_quant)
            assert torch.equal(ours.codes.cpu(), expected.codes), (block_size, size)
            if not double_quant:  # the mean of scales is a sum, whose order is the device's
                assert torch.equal(ours.scales.cpu(), expected.scales), (block_size, size)


def test_what_is_not_finite_is_refused(device: str):
    w = torch.randn(100)
    w[33] = float("nan")
    with forced(), pytest.raises(qk.InputError, match="33"):
        qk.quantize(w.to(device))


@pytest.mark.sanitizer
def test_one_small_case(device: str):
    with forced():
        assert qk.quantize(torch.randn(4097).to(device)).codes.numel() == 2049
