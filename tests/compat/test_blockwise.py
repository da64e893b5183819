"""8-bit codes in blocks: the nearest value of any map, bitsandbytes' arguments and errors."""

import bitsandbytes.functional as theirs
import pytest
import torch

import qlora_kernels.compat.bitsandbytes.functional as ours
from formats.peer import bits
from qlora_kernels.testing.cases import generator

MAPS = {
    "dynamic": ours.create_dynamic_map(),
    "unsigned": ours.create_dynamic_map(signed=False),
    "linear": ours.create_linear_map(),
    "fp8": ours.create_fp8_map(),
    "4 bits": ours.create_linear_map(total_bits=4),
    "unsorted": ours.create_dynamic_map().flip(0),
    "fp4": ours.get_4bit_type("fp4", "cpu"),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(shape)).to(dtype)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("blocksize", [1, 64, 100, 4096])
def test_codes_are_the_nearest(name: str, blocksize: int):
    a, code = values(7, 130), MAPS[name]
    q, state = ours.quantize_blockwise(a, code=code, blocksize=blocksize)
    assert q.dtype == torch.uint8 and q.shape == a.shape
    blocks = a.view(-1).split(blocksize)
    assert torch.equal(state.absmax, torch.stack([block.abs().max() for block in blocks]))
    ratios = torch.cat([b / s for b, s in zip(blocks, state.absmax, strict=True)]).double()
    distances = (ratios[:, None] - code.double()).abs()
    chosen = distances.gather(1, q.view(-1, 1).long())[:, 0]
    assert torch.equal(chosen, distances.amin(dim=1))


def test_a_tie_takes_the_lower_value_and_zero_is_zero():
    code = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    a = torch.tensor([1.0, 0.25, 0.75, 0.0, -0.5])
    q, _ = ours.quantize_blockwise(a, code=code, blocksize=8)
    assert q.tolist() == [3, 1, 2, 1, 0]
    zeros, _ = ours.quantize_blockwise(torch.zeros(300), blocksize=64)
    assert (ours.create_dynamic_map()[zeros.long()] == 0).all()


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_reads_what_the_other_wrote(dtype: torch.dtype, nested: bool):
    a = values(40, 130, dtype=dtype)
    for writer, reader in ((ours, theirs), (theirs, ours)):
        q, state = writer.quantize_blockwise(a, blocksize=256, nested=nested)
        read = reader.QuantState.from_dict(state.as_dict(), torch.device("cpu"))
        mine, truth = reader.dequantize_blockwise(q, read), writer.dequantize_blockwise(q, state)
        assert mine.dtype == dtype and torch.equal(bits(mine), bits(truth))


def test_never_further_than_theirs():
    """Its table misses the nearest code now and then (documented), and 0 always."""
    a = values(1 << 16)
    errors = []
    for module in (ours, theirs):
        q, state = module.quantize_blockwise(a, blocksize=256)
        errors.append((module.dequantize_blockwise(q, state) - a).abs())
    ulp = torch.finfo(torch.float32).eps * a.abs().max()
    assert (errors[0] <= errors[1] + ulp).all()


def test_results_go_where_they_are_wanted():
    a = values(3, 100)
    q, state = ours.quantize_blockwise(a, blocksize=64)
    out, absmax = torch.empty_like(q), torch.empty_like(state.absmax)
    got, written = ours.quantize_blockwise(a, absmax=absmax, out=out, blocksize=64)
    assert got is out and written.absmax is absmax
    truth = ours.dequantize_blockwise(q, state)
    into = torch.empty_like(a)
    assert ours.dequantize_blockwise(q, state, out=into) is into and torch.equal(into, truth)
    without = ours.dequantize_blockwise(q, absmax=absmax, blocksize=64)
    assert without.dtype == torch.float32 and torch.equal(without, truth)
    coded = ours.dequantize_blockwise(q, absmax=absmax, code=state.code, blocksize=64)
    assert torch.equal(coded, truth)


Q, STATE = ours.quantize_blockwise(values(3, 100), blocksize=64)
REFUSED = {
    "blocksize should be positive, was 0": lambda: ours.quantize_blockwise(values(3), blocksize=0),
    "16/32-bit float": lambda: ours.quantize_blockwise(values(3).double()),
    "should have 256 values": lambda: ours.quantize_blockwise(values(3), code=torch.zeros(257)),
    "a quant_state or absmax": lambda: ours.dequantize_blockwise(Q),
    "A should be uint8": lambda: ours.dequantize_blockwise(Q.int(), STATE),
    "blocksize should be positive, was -1": lambda: ours.dequantize_blockwise(
        Q, absmax=STATE.absmax, blocksize=-1
    ),
    r"absmax should be \[5\]": lambda: ours.dequantize_blockwise(
        Q, absmax=STATE.absmax[:4], blocksize=64
    ),
    "out should be torch.float32": lambda: ours.dequantize_blockwise(Q, STATE, out=Q),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_is_a_value_error(message: str):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
