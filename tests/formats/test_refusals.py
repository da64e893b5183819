"""Bad input to quantize and dequantize: one line that says what should be and what was."""

import re

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.formats.codebooks import FORMATS


def refusal(text: str) -> object:
    return pytest.raises(qk.InputError, match=rf"\A{re.escape(text)}\Z")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", FORMATS)
def test_the_first_value_that_is_not_finite_is_named(backend, format, dtype, value):
    w = torch.randn(30, 50).to(dtype)
    w[17, 3] = value
    w[29, 49] = float("nan")
    with refusal(f"quantize: w should be finite in float32, was {value} at [17, 3]"):
        qk.quantize(w, format)


@pytest.mark.parametrize("where", [0, 63, 64, 1023, 1024, 100_000])
def test_the_index_is_right_wherever_it_is(backend: str, where: int):
    w = torch.zeros(100_001)
    w[where] = float("inf")
    with refusal(f"quantize: w should be finite in float32, was inf at [{where}]"):
        qk.quantize(w)


def test_a_double_that_float32_cannot_hold_is_refused():
    w = torch.tensor([[1.0, 1e300]], dtype=torch.float64)
    with refusal("quantize: w should be finite in float32, was 1e+300 at [0, 1]"):
        qk.quantize(w)


def test_formats_and_block_sizes_are_listed():
    w = torch.zeros(64)
    with refusal("quantize: format should be one of nf4, fp4, int8, nf4-tuned, was 'nf3'"):
        qk.quantize(w, "nf3")
    for size in (0, -64, 48, 8192, 64.5, "64"):
        sizes = "32, 64, 128, 256, 512, 1024, 2048, 4096"
        with refusal(f"quantize: block_size should be one of {sizes}, was {size!r}"):
            qk.quantize(w, block_size=size)


def test_whole_numbers_are_not_quantized():
    floats = "float32 or bfloat16 or float16 or float64"
    with refusal(f"quantize: w should be {floats}, was int64"):
        qk.quantize(torch.arange(64))


def test_dequantize_returns_floats_only():
    q = qk.quantize(torch.randn(2, 64))
    floats = "float32 or bfloat16 or float16 or float64"
    with refusal(f"dequantize: dtype should be {floats}, was int8"):
        qk.dequantize(q, torch.int8)
    whole = torch.zeros(2, 64, dtype=torch.int8)
    for dtype in (None, torch.int8):
        with pytest.raises(qk.InputError, match=f"should be {floats}, was int8"):
            qk.dequantize(q, dtype, out=whole)


@pytest.mark.parametrize(
    ("out", "was"),
    [
        (torch.zeros(64, 2).T, "[2, 64] with strides (1, 2) on cpu"),
        (torch.zeros(128), "[128] with strides (1,) on cpu"),
        (torch.zeros(2, 64, device="meta"), "[2, 64] with strides (64, 1) on meta"),
    ],
)
def test_out_fits_or_is_refused(out: torch.Tensor, was: str):
    q = qk.quantize(torch.randn(2, 64))
    with refusal(f"dequantize: out should be contiguous [2, 64] on cpu, was {was}"):
        qk.dequantize(q, out=out)


def test_out_of_another_dtype_than_asked_is_refused():
    q = qk.quantize(torch.randn(2, 64))
    with refusal("dequantize: out should be bfloat16, was float32"):
        qk.dequantize(q, torch.bfloat16, out=torch.zeros(2, 64))


def test_out_is_filled_and_returned(backend: str):
    q = qk.quantize(torch.randn(5, 33))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        out = torch.full((5, 33), float("nan"), dtype=dtype)
        assert qk.dequantize(q, out=out) is out
        assert torch.equal(out, qk.dequantize(q, dtype))
