"""Decoded values are the reference's, bit for bit."""

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from native.test_codecs import bits, weights
from qlora_kernels.testing.cases import FLOAT_DTYPES

SIZES = (0, 1, 33, 65, 2048, 4097, 9001)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("format", ["nf4", "fp4", "int8", "nf4-tuned"])
def test_bits(cuda: None, format: str, block_size: int, dtype: torch.dtype):
    for size in SIZES:
        w = weights(size).clamp(-100, 100)
        for double_quant in (False, True):
            with qk.use_backend("cpu"):
                q = qk.quantize(w, format, block_size, double_quant)
            values = qk.dequantize(q, dtype)
            with qk.use_backend("reference"):
                assert torch.equal(bits(values), bits(qk.dequantize(q, dtype))), f"of {size}"


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_unaligned_outputs_stay_inside_their_memory(cuda: None, dtype: torch.dtype):
    with qk.use_backend("cpu"):
        q = qk.quantize(weights(5001))
    with guarded() as memory:
        for offset in (0, 1):
            out = memory.empty((5001,), dtype, offset)
            qk.dequantize(q, out=out)
            with qk.use_backend("cpu"):
                assert torch.equal(out, qk.dequantize(q, dtype))
