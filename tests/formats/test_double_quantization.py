"""Scales of scales: exactly the nearest value of the dynamic map, by an independent brute force."""

import numpy as np
import pytest
import torch

import qlora_kernels as qk
from formats.peer import bits
from formats.weights import CPU, KINDS, Kind, huge, random_weight
from qlora_kernels.formats.codebooks import NESTED_BLOCK_SIZE, dynamic_map
from qlora_kernels.testing.cases import FLOAT_DTYPES, generator

MAP = dynamic_map(CPU).double().numpy()


def brute_force(absmax: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(codes, nested absmax): of all 256 values the nearest, the lower where two are as near."""
    centred = (absmax - absmax.mean()).numpy()
    codes, nested = [], []
    for start in range(0, len(centred), NESTED_BLOCK_SIZE):
        block = centred[start : start + NESTED_BLOCK_SIZE]
        nested.append(np.abs(block).max())
        ratios = block / (nested[-1] or np.float32(1))  # float32, one IEEE division
        distances = np.abs(MAP[None, :] - ratios.astype(np.float64)[:, None])
        codes.append(distances.argmin(axis=1))  # the first of equals
    return np.concatenate(codes), np.array(nested)


def check(w: torch.Tensor, format: str, block_size: int) -> None:
    plain = qk.quantize(w, format, block_size, double_quant=False)
    double = qk.quantize(w, format, block_size, double_quant=True)
    assert torch.equal(plain.codes, double.codes), "4-bit codes come from the original absmax"
    codes, nested = brute_force(plain.absmax)
    assert double.scales.dtype == torch.uint8
    assert np.array_equal(double.scales.numpy(), codes)
    assert np.array_equal(double.nested_absmax.numpy(), nested)
    assert torch.equal(bits(double.nested_offset), bits(plain.absmax.mean()))


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not huge], ids=lambda k: k.__name__)
def test_every_scale_takes_the_nearest_value(backend: str, kind: Kind):
    random = generator(kind.__name__)
    for dtype in FLOAT_DTYPES:
        for block_size, format in ((32, "nf4"), (64, "fp4"), (256, "int8")):
            check(random_weight(kind, block_size, dtype, random), format, block_size)


@pytest.mark.parametrize("blocks", [1, 255, 256, 257, 1000])
def test_nested_blocks_are_256_scales_and_the_last_is_short(backend: str, blocks: int):
    w = torch.randn(blocks * 32 - 5, generator=generator(blocks)).exp()
    check(w, "nf4", 32)
    assert qk.quantize(w, "nf4", 32).nested_absmax.shape == (-(-blocks // 256),)


def test_a_tie_takes_the_lower_code(backend: str):
    """Two scales 0 and 2 have mean 1 and centred values -1 and 1, and -1 is beyond the map."""
    middles = (MAP[:-1] + MAP[1:]) / 2
    exact = [m for m in middles if np.float32(m) == m and abs(m) < 0.9]
    # absmax = 2 + middle and 2 - middle have mean 2; 1 and 3 make the largest distance 1.
    pairs = [2 + s * m for m in exact for s in (1, -1) if np.float32(2 + m) == 2 + m]
    absmax = torch.tensor([1.0, 3.0, *pairs[:240]], dtype=torch.float32)
    assert absmax.mean() == 2.0 and len(pairs) > 2, "this test needs exact ties"
    w = torch.zeros(len(absmax), 32)
    w[:, 0] = absmax
    check(w, "nf4", 32)


def test_equal_scales_lose_nothing(backend: str):
    q = qk.quantize(torch.ones(300, 64) * 0.37, "nf4")
    assert torch.equal(q.absmax, torch.full((300,), 0.37))


def test_the_effective_scale_is_a_product_then_a_sum(backend: str):
    """Two roundings: a fused multiply-add would give other bits."""
    q = qk.quantize(torch.randn(4096, 64, generator=generator("absmax")), "nf4")
    per_block = q.nested_absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: q.scales.numel()]
    product = dynamic_map(CPU)[q.scales.int()].numpy() * per_block.numpy()
    absmax = product + q.nested_offset.numpy()
    assert np.array_equal(q.absmax.numpy(), absmax)
    plain = qk.QuantizedTensor(
        q.codes, torch.from_numpy(absmax), None, None, q.shape, q.dtype, q.format, q.block_size
    )
    assert torch.equal(bits(qk.dequantize(q)), bits(qk.dequantize(plain)))


def test_scales_whose_mean_overflows_are_refused(backend: str):
    w = torch.full((4, 64), torch.finfo(torch.float32).max)
    assert qk.dequantize(qk.quantize(w, double_quant=False)).isfinite().all()
    with pytest.raises(qk.InputError, match=r"^quantize: .*mean.*"):
        qk.quantize(w, double_quant=True)
