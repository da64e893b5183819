"""quantize and dequantize, bit for bit with the reference backend, on every instruction set."""

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from qlora_kernels import native
from qlora_kernels.formats.codebooks import dynamic_map, encoding
from qlora_kernels.testing.cases import FLOAT_DTYPES

FORMATS = ("nf4", "fp4", "int8")
SIZES = (0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 4096, 4097, 20001)
PARTS = ("codes", "scales", "nested_absmax", "nested_offset")


def weights(size: int) -> torch.Tensor:
    """Normal values with zeros, a zero block, extremes, and values that sit on codes and ties."""
    w = torch.randn(size, generator=torch.Generator().manual_seed(size))
    w[::7] = 0.0
    w[64:128] = 0.0
    w[128:192] *= 1e30
    w[192:256] *= 1e-39
    w[256:320] = torch.arange(len(w[256:320])) / 64 - 0.5
    return w


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("format", FORMATS)
def test_codes_and_values(isa: str, format: str, block_size: int, dtype: torch.dtype):
    for size in SIZES:
        w = weights(size).to(dtype).nan_to_num()
        for double_quant in (False, True):
            ours = qk.quantize(w, format, block_size, double_quant)
            values = [qk.dequantize(ours, out_dtype) for out_dtype in FLOAT_DTYPES]
            with qk.use_backend("reference"):
                truth = qk.quantize(w, format, block_size, double_quant)
                true_values = [qk.dequantize(truth, out_dtype) for out_dtype in FLOAT_DTYPES]
            for name in PARTS:
                left, right = getattr(ours, name), getattr(truth, name)
                assert (left is None) == (right is None)
                assert left is None or torch.equal(bits(left), bits(right)), f"{name} of {size}"
            for left, right in zip(values, true_values, strict=True):
                assert torch.equal(bits(left), bits(right)), f"{left.dtype} of {size}"


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("format", ["nf4", "fp4"])
def test_codes_beside_thresholds(isa: str, format: str, dtype: torch.dtype):
    """The values next to where codes change, for scales of all sizes."""
    thresholds = encoding(format, torch.device("cpu"))[0]
    absmax = 10.0 ** torch.linspace(-45, 38, 333)[:, None]
    beside = (thresholds * absmax).to(dtype)  # [scales, thresholds]
    steps = [(bits(beside) + step).view(dtype) for step in range(-2, 3)]
    w = torch.cat([absmax.to(dtype), *steps], dim=1).nan_to_num(posinf=0)
    w = torch.cat([w, w.new_zeros(len(w), 128 - w.shape[1])], dim=1)
    for rows in (w, w.clamp(-absmax, absmax).to(dtype)):
        ours = qk.quantize(rows, format, 128, False)
        with qk.use_backend("reference"):
            truth = qk.quantize(rows, format, 128, False)
        assert torch.equal(ours.codes, truth.codes)


@pytest.mark.parametrize("format", ["nf4", "fp4", "nf4-tuned"])
def test_searched_scales_and_codes(isa: str, format: str):
    for size, block_size in ((1, 32), (33, 32), (4097, 64), (4097, 4096)):
        w = weights(size)
        for double_quant in (False, True):
            ours = qk.quantize(w, format, block_size, double_quant, scale_search=True)
            with qk.use_backend("reference"):
                truth = qk.quantize(w, format, block_size, double_quant, scale_search=True)
            for name in PARTS:
                left, right = getattr(ours, name), getattr(truth, name)
                assert left is None or torch.equal(bits(left), bits(right)), f"{name} of {size}"


def test_any_codebook_of_sixteen_values(isa: str):
    """The kernels take the values as data, in any order, with duplicates."""
    book = torch.randn(16, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    book[5] = book[11]
    kernels = native.cpu()
    tables = kernels.Tables(book.tolist(), dynamic_map(torch.device("cpu")).tolist())
    w = torch.rand(640, generator=torch.Generator().manual_seed(4)) * 2 - 1
    codes, absmax = torch.empty(320, 1, dtype=torch.uint8), torch.empty(10)
    assert kernels.quantize((w, None), 64, tables, codes, absmax, 1) == -1
    nibbles = torch.cat([codes >> 4, codes & 15], dim=1).view(-1).long()
    scaled = (w.view(10, 64) / absmax[:, None]).view(-1)
    nearest = (scaled[:, None] - book).abs().amin(dim=1)
    torch.testing.assert_close((scaled - book[nibbles]).abs(), nearest)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_value_that_is_not_finite(isa: str, value: float):
    for index in (0, 5, 63, 64, 640, 999):
        w = weights(1000)
        w[index], w[-1] = value, value
        for format in FORMATS:
            with pytest.raises(qk.InputError, match=rf"was {value} at \[{index}\]"):
                qk.quantize(w, format)


def test_the_first_bad_index_on_many_threads(isa: str):
    w = torch.ones(400_000)
    w[[123_456, 399_999]] = float("nan")
    codes, absmax = torch.empty(200_000, 1, dtype=torch.uint8), torch.empty(6250)
    assert native.cpu().quantize((w, None), 64, native.tables("nf4"), codes, absmax, 4) == 123_456


@pytest.mark.parametrize("format", FORMATS)
def test_outputs_stay_inside_their_memory(isa: str, format: str):
    for size in SIZES:
        w = weights(size)
        q = qk.quantize(w, format, 32)
        absmax = qk.quantize(w, format, 32, double_quant=False).scales
        with guarded() as memory:
            codes = memory.empty(q.codes.shape, torch.uint8, offset=1)
            scales = memory.empty(absmax.shape, offset=1)
            native.cpu().quantize((w, None), 32, native.tables(format), codes, scales, 3)
            assert torch.equal(codes, q.codes) and torch.equal(scales, absmax)
            for dtype in FLOAT_DTYPES:
                out = memory.empty((size,), dtype, offset=1)
                native.cpu().dequantize(native.weight(q), out, 3)
                assert torch.equal(out, qk.dequantize(q, dtype))


def test_a_write_beside_is_found():
    for offset in (-1, 4):
        with pytest.raises(AssertionError, match="outside its output"), guarded() as memory:
            out = memory.empty((4,), torch.uint8)
            torch.as_strided(out, (1,), (1,), out.storage_offset() + offset).fill_(0)
