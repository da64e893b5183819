"""Conversions between fp32, bf16 and fp16 are torch's, bit for bit; NaN stays NaN.

The last NF4 value is 1, so a weight of that code is its absmax: any fp32 value can be put through
`dequantize`. The absmax of a block of equal values puts any 16-bit one through `quantize`.
"""

import pytest
import torch

import qlora_kernels as qk

EVERY_HALF = torch.arange(-(2**15), 2**15, dtype=torch.int16)
BLOCK = 32
HALVES = (torch.bfloat16, torch.float16)


def every_kind_of_float() -> torch.Tensor:
    """Each 16-bit prefix with low bits around the two rounding points."""
    lows = torch.tensor([0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    prefixes = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
    return (prefixes[:, None] | lows.to(torch.int32)).view(-1).view(torch.float32)


def ones_times(absmax: torch.Tensor, block: int, dtype: torch.dtype) -> torch.Tensor:
    """One value of each of the blocks with these scales; a short block is left to the tail loop."""
    codes = torch.full((absmax.numel() * ((block + 1) // 2), 1), 0xFF, dtype=torch.uint8)
    shape = (absmax.numel() * block,)
    q = qk.QuantizedTensor(codes, absmax, None, None, shape, dtype, "nf4", BLOCK)
    return qk.dequantize(q)[::block]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("loop", ["vectors", "tail"])
def test_rounding(isa: str, dtype: torch.dtype, loop: str):
    absmax = every_kind_of_float()
    if loop == "vectors":
        ours = ones_times(absmax, BLOCK, dtype)
    else:
        absmax = absmax[:: 2**8 + 1]
        ours = torch.cat([ones_times(value.view(1), 1, dtype) for value in absmax])
    truth = absmax.to(dtype)
    assert torch.equal(ours.isnan(), truth.isnan())
    number = ~truth.isnan()
    assert torch.equal(ours[number].view(torch.int16), truth[number].view(torch.int16))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_widening(isa: str, dtype: torch.dtype):
    values = EVERY_HALF.view(dtype)
    values = values[values.isfinite()]
    q = qk.quantize(values.repeat_interleave(BLOCK), "int8", BLOCK, double_quant=False)
    assert torch.equal(q.scales, values.float().abs())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_infinity_and_nan_pass_through_a_product(isa: str, dtype: torch.dtype):
    q = qk.quantize(torch.eye(64), "nf4")
    x = torch.zeros(16, 64, dtype=dtype)
    x[3, 5], x[4, 6] = float("inf"), float("nan")
    y = qk.qlora_linear(x, q)
    assert y[3].isinf().sum() == 1 and y[3, 5] == float("inf")
    assert y[4].isnan().all() and y[:3].isfinite().all()
