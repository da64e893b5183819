"""quantize, dequantize and dropout_mask, bit for bit with the reference backend."""

import pytest
import torch

import qlora_kernels as qk
from native.test_codecs import PARTS, bits, weights
from qlora_kernels.formats import quantized_tensor
from qlora_kernels.formats.codebooks import scale_ratios
from qlora_kernels.ops.quantize import triton_search
from qlora_kernels.testing.cases import FLOAT_DTYPES

SIZES = (0, 1, 33, 65, 4096, 8192, 9001)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("format", ["nf4", "fp4", "int8"])
def test_codes_and_values(device: torch.device, format: str, block_size: int, dtype: torch.dtype):
    for size in SIZES:
        w = weights(size).to(dtype).nan_to_num()
        for double_quant in (False, True):
            ours = qk.quantize(w.to(device), format, block_size, double_quant)
            values = qk.dequantize(ours, dtype)
            with qk.use_backend("reference"):
                truth = qk.quantize(w.to(device), format, block_size, double_quant)
                true_values = qk.dequantize(truth, dtype)
            for name in PARTS:
                left, right = getattr(ours, name), getattr(truth, name)
                assert (left is None) == (right is None)
                assert left is None or torch.equal(bits(left), bits(right)), f"{name} of {size}"
            assert torch.equal(bits(values), bits(true_values)), f"values of {size}"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, where a candidate overflows
@pytest.mark.parametrize(
    ("format", "size", "weighted"),
    [("nf4", 999, False), ("nf4", 1280, True), ("fp4", 65, False), ("nf4-tuned", 640, True)],
)
def test_searched_scales(
    device: torch.device, format: str, size: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
):
    """Of all ratios a few, since the interpreter takes its time for each."""
    monkeypatch.setattr(quantized_tensor, "scale_ratios", lambda name: scale_ratios(name)[::20])
    triton_search.ratios_on.cache_clear()
    w = weights(size).nan_to_num().view(-1, 10 if weighted else 1).to(device)
    importance = torch.linspace(0.1, 2.0, 10, device=device) if weighted else None
    how = {"scale_search": format != "nf4-tuned", "importance": importance}
    for double_quant in (False, True):
        ours = qk.quantize(w, format, 32, double_quant, **how)
        with qk.use_backend("reference"):
            truth = qk.quantize(w, format, 32, double_quant, **how)
        for name in PARTS:
            left, right = getattr(ours, name), getattr(truth, name)
            assert left is right is None or torch.equal(bits(left), bits(right)), name
    triton_search.ratios_on.cache_clear()


# The interpreter goes on computing with the value, and NumPy warns.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_value_that_is_not_finite(device: torch.device, value: float):
    for index in (0, 64, 999):
        w = weights(1000).to(device)
        w[index], w[-1] = value, value
        with pytest.raises(qk.InputError, match=rf"was {value} at \[{index}\]"):
            qk.quantize(w)


@pytest.mark.parametrize("p", [0.0, 2**-33, 0.05, 0.999, 1 - 2**-30])
@pytest.mark.parametrize("seed", [0, -1, 2**32 + 5, 2**63 - 1, -(2**63)])
def test_masks(device: torch.device, seed: int, p: float):
    ours = qk.dropout_mask(torch.tensor(seed, device=device), (67, 33), p)
    with qk.use_backend("reference"):
        assert torch.equal(ours, qk.dropout_mask(torch.tensor(seed, device=device), (67, 33), p))
