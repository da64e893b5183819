"""Blockwise int8 against the rule written once more, in numpy."""

import numpy as np
import pytest
import torch

import qlora_kernels as qk
from formats.peer import bits
from formats.weights import KINDS, Kind, random_weight
from qlora_kernels.formats.codebooks import BLOCK_SIZES
from qlora_kernels.testing.cases import FLOAT_DTYPES, generator


def by_the_rule(w: torch.Tensor, block_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes, absmax, values) in float32, block by block."""
    flat = w.flatten().float().numpy()
    codes, absmax, values = [], [], []
    for start in range(0, len(flat), block_size):
        block = flat[start : start + block_size]
        absmax.append(np.abs(block).max())
        scale = absmax[-1] / np.float32(127)
        ratio = block / scale if scale else np.zeros_like(block)
        codes.append(np.clip(np.rint(ratio), -127, 127).astype(np.int8))
        values.append(codes[-1].astype(np.float32) * scale)
    return np.concatenate(codes), np.array(absmax), np.concatenate(values)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_codes_absmax_and_values(backend: str, kind: Kind):
    random = generator(kind.__name__)
    for block_size in BLOCK_SIZES:
        for dtype in FLOAT_DTYPES:
            w = random_weight(kind, block_size, dtype, random)
            codes, absmax, values = by_the_rule(w, block_size)
            q = qk.quantize(w, "int8", block_size, double_quant=False)
            case = f"{dtype} {list(w.shape)} in blocks of {block_size}"
            assert np.array_equal(q.codes.view(torch.int8).view(-1).numpy(), codes), case
            assert np.array_equal(q.absmax.numpy(), absmax), case
            for out_dtype in FLOAT_DTYPES:
                ours = qk.dequantize(q, out_dtype)
                theirs = torch.from_numpy(values).to(out_dtype).view(w.shape)
                assert torch.equal(bits(ours), bits(theirs)), case


def test_a_half_goes_to_the_even_code(backend: str):
    w = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    codes = qk.quantize(w, "int8").codes.view(torch.int8).flatten().tolist()
    assert codes == [127, 0, 2, 2, 0, -2, -2]


def test_a_block_s_largest_value_comes_back(backend: str):
    """An outlier costs its block, not itself: |w - v| <= absmax / 254 everywhere."""
    w = torch.randn(50, 70, generator=generator("int8"))
    q = qk.quantize(w, "int8", 64, double_quant=False)
    step = (q.absmax.double() / 127).repeat_interleave(64)[: w.numel()].view(w.shape)
    error = (qk.dequantize(q).double() - w.double()).abs()
    rounding = w.abs() * torch.finfo(torch.float32).eps
    assert (error <= step / 2 + rounding).all()
