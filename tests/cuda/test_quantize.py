"""Codes and scales are the reference's, bit for bit."""

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from native.test_codecs import PARTS, bits, weights
from qlora_kernels.formats.codebooks import FORMATS, encoding
from qlora_kernels.gpu import cuda_module
from qlora_kernels.testing.cases import FLOAT_DTYPES

SIZES = (0, 1, 33, 65, 2048, 4097, 20001)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("format", ["nf4", "fp4", "int8"])
def test_bits(cuda: None, format: str, block_size: int, dtype: torch.dtype):
    for size in SIZES:
        w = weights(size).to(dtype).nan_to_num()
        for double_quant in (False, True):
            same(w, format, block_size, double_quant)


def same(w: torch.Tensor, *how: object, importance: torch.Tensor | None = None) -> None:
    """All parts have the bits that the reference gives them."""
    ours = qk.quantize(w, *how, importance=importance)
    with qk.use_backend("reference"):
        truth = qk.quantize(w, *how, importance=importance)
    for name in PARTS:
        left, right = getattr(ours, name), getattr(truth, name)
        assert (left is None) == (right is None)
        assert left is None or torch.equal(bits(left), bits(right)), f"{name} of {list(w.shape)}"


SEARCHES = ((0, 64), (1, 32), (65, 32), (333, 64), (777, 512))


@pytest.mark.parametrize("format", ["nf4", "fp4", "nf4-tuned"])
def test_searched_scales(cuda: None, format: str):
    for i, (size, block_size) in enumerate(SEARCHES):
        w = weights(size).to(FLOAT_DTYPES[i % 3]).nan_to_num()
        for double_quant in (False, True):
            same(w, format, block_size, double_quant, True)


def test_searched_scales_of_columns_that_count_differently(cuda: None):
    """Blocks straddle rows, and the last one is short; some columns count nothing."""
    w = weights(7 * 45).view(7, 45)
    importance = torch.rand(45, generator=torch.Generator().manual_seed(0)).square()
    importance[::6] = 0.0
    for format in ("nf4", "nf4-tuned"):
        same(w, format, 64, True, True, importance=importance)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_value_that_is_not_finite(cuda: None, value: float):
    for index in (0, 64, 999):
        w = weights(1000)
        w[index], w[-1] = value, value
        with pytest.raises(qk.InputError, match=rf"was {value} at \[{index}\]"):
            qk.quantize(w)


def test_values_on_and_beside_thresholds_and_cells(cuda: None):
    """Where a code changes, and where the grid that finds it does: the last place decides."""
    thresholds, _ = encoding("nf4", torch.device("cpu"))
    edges = torch.cat([thresholds, torch.arange(-33, 34) / 32, torch.tensor([1.0, -1.0])])
    up, down = (edges.nextafter(torch.tensor(end)) for end in (2.0, -2.0))
    w = torch.cat([edges, up, down]).clamp(-1, 1)
    blocks = torch.nn.functional.pad(w, (0, -w.numel() % 63)).view(-1, 63)
    blocks = torch.cat([blocks, torch.ones(len(blocks), 1)], dim=1)  # absmax is 1, exactly
    for scale in (1.0, 3.0, 1e-30):
        same(blocks.repeat(4, 1) * scale, "nf4", 64, False)


@pytest.mark.parametrize("format", ["nf4", "int8"])
def test_outputs_stay_inside_their_memory(cuda: None, format: str):
    w = weights(5001)
    truth = qk.quantize(w, format, double_quant=False)
    module = cuda_module.kernels()
    for offset in (0, 1):
        with guarded() as memory:
            codes = memory.empty(truth.codes.shape, torch.uint8, offset)
            absmax = memory.empty(truth.scales.shape, offset=offset)
            is_bad = memory.empty((1,), torch.int32)
            moved = memory.empty(w.shape, offset=offset)
            moved.copy_(w)
            outputs = [part.data_ptr() for part in (codes, absmax, is_bad)]
            how = (cuda_module.element(w), [5001, 64], FORMATS[format].codebook)
            module.quantize(module.Quantize(moved.data_ptr(), *how, outputs), 0)
            assert torch.equal(codes, truth.codes) and torch.equal(absmax, truth.scales)
