"""quantize_4bit and its states: bitsandbytes' bits both ways, its arguments and its errors."""

from itertools import product
from typing import Any

import bitsandbytes.functional as theirs
import pytest
import torch

import qlora_kernels.compat.bitsandbytes.functional as ours
from formats.peer import bits
from qlora_kernels.testing.cases import generator

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TYPES = ("nf4", "fp4")
STORAGES = (torch.uint8, torch.bfloat16, torch.float16, torch.float32)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(shape)).to(dtype)


def same(mine: Any, other: Any) -> bool:
    if isinstance(mine, torch.Tensor):
        return mine.dtype == other.dtype and torch.equal(mine, other)
    return mine == other


@pytest.mark.parametrize("quant_type", TYPES)
@pytest.mark.parametrize("blocksize", [None, 32, 256, 4096])
def test_codes_and_states_are_theirs(quant_type: str, blocksize: int | None):
    for dtype, storage, shape in product(DTYPES, STORAGES, [(64, 96), (5, 7, 32), (320,)]):
        w = weight(*shape, dtype=dtype)
        arguments = {"blocksize": blocksize, "quant_type": quant_type, "quant_storage": storage}
        (mine, state), (other, peer) = (m.quantize_4bit(w, **arguments) for m in (ours, theirs))
        assert mine.dtype == other.dtype == storage and mine.shape == other.shape
        assert torch.equal(mine.view(torch.uint8), other.view(torch.uint8))
        for name in ("absmax", "shape", "code", "blocksize", "quant_type", "dtype", "nested"):
            assert same(getattr(state, name), getattr(peer, name)), name
        assert ours.dequantize_4bit(mine, state).shape == w.shape


@pytest.mark.parametrize("quant_type", TYPES)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_reads_what_the_other_wrote(quant_type: str, nested: bool, dtype: torch.dtype):
    w = weight(64, 512, dtype=dtype)
    for writer, reader in ((ours, theirs), (theirs, ours)):
        codes, state = writer.quantize_4bit(w, compress_statistics=nested, quant_type=quant_type)
        for packed in (True, False):
            read = reader.QuantState.from_dict(state.as_dict(packed), torch.device("cpu"))
            values = reader.dequantize_4bit(codes, read)
            truth = writer.dequantize_4bit(codes, state)
            assert torch.equal(bits(values + 0.0), bits(truth + 0.0))  # theirs has -0 in fp4


@pytest.mark.parametrize("nested", [True, False])
def test_packed_states_are_the_same_tensors(nested: bool):
    _, peer = theirs.quantize_4bit(weight(64, 512), compress_statistics=nested)
    state = ours.QuantState.from_dict(peer.as_dict(packed=True), "cpu")
    mine, other = state.as_dict(packed=True), peer.as_dict(packed=True)
    assert list(mine) == list(other)
    assert all(same(mine[name], other[name]) for name in mine)
    assert state.as_dict().keys() == peer.as_dict().keys()
    assert state[:2] == [state.absmax, state.shape] and (state[4] is not None) == nested


def test_a_dict_is_read_without_being_changed_and_with_any_prefix():
    _, state = ours.quantize_nf4(weight(64, 512), compress_statistics=True)
    packed = {f"layers.0.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    before = dict(packed)
    assert ours.QuantState.from_dict(packed, "cpu") == state
    assert packed == before


def test_a_state_is_equal_by_value_and_moves_in_place():
    _, first = ours.quantize_nf4(weight(64, 512), compress_statistics=True)
    _, second = ours.quantize_nf4(weight(64, 512), compress_statistics=True)
    _, plain = ours.quantize_nf4(weight(64, 512))
    assert first == second and first != plain and first != "state"
    assert first.to("meta") is None
    assert first.absmax.is_meta and first.state2.absmax.is_meta and first.offset.is_meta


def test_statistics_compressed_in_an_unusual_way_are_decoded_as_they_say():
    w = weight(64, 512)
    codes, state = ours.quantize_nf4(w)
    offset = state.absmax.mean()
    linear = ours.create_linear_map()
    stored, state2 = ours.quantize_blockwise(state.absmax - offset, code=linear, blocksize=128)
    facts = (state.shape, state.code, state.blocksize, "nf4", state.dtype)
    nested = ours.QuantState(stored, *facts, offset=offset, state2=state2)
    plain = ours.QuantState(ours.dequantize_blockwise(stored, state2) + offset, *facts)
    assert torch.equal(ours.dequantize_4bit(codes, nested), ours.dequantize_4bit(codes, plain))
    truth = theirs.dequantize_4bit(codes, nested)
    assert torch.equal(ours.dequantize_4bit(codes, nested), truth)


@pytest.mark.parametrize("width", [48, 80, 96, 4304])
def test_widths_of_16_that_are_no_multiple_of_the_block(width: int):
    """bitsandbytes' AVX-512 kernel takes another block's scale there."""
    w = weight(6, width)
    flat, state = ours.quantize_nf4(w.view(-1))
    codes, _ = ours.quantize_nf4(w)
    matrix = ours.QuantState(state.absmax, w.shape, state.code, 64, "nf4", w.dtype)
    assert torch.equal(
        ours.dequantize_nf4(codes, matrix).view(-1), ours.dequantize_nf4(flat, state)
    )


def test_results_go_where_they_are_wanted():
    w = weight(64, 96)
    codes, state = ours.quantize_fp4(w)
    out, absmax = torch.empty_like(codes), torch.empty_like(state.absmax)
    got, written = ours.quantize_fp4(w, absmax=absmax, out=out)
    assert got is out and written.absmax is absmax
    assert torch.equal(out, codes) and torch.equal(absmax, state.absmax)
    values = torch.empty_like(w)
    assert ours.dequantize_fp4(codes, state, out=values) is values
    truth = ours.dequantize_4bit(codes, state)
    assert torch.equal(values, truth)
    values.zero_()
    assert ours.dequantize_4bit(codes, absmax=absmax, out=values, quant_type="fp4") is values
    assert torch.equal(values, truth)
    assert torch.equal(ours.dequantize_4bit(codes.t(), state), truth.t())


CODES, STATE = ours.quantize_nf4(weight(64, 96))
WITHOUT_DTYPE = ours.QuantState(STATE.absmax, STATE.shape, STATE.code, 64, "nf4")
REFUSED = {
    "invalid blocksize": lambda: ours.quantize_4bit(weight(64), blocksize=16),
    "'nf4' or 'fp4'": lambda: ours.quantize_4bit(weight(64), quant_type="int8"),
    "16/32-bit float": lambda: ours.quantize_4bit(weight(64).double()),
    "should be finite": lambda: ours.quantize_4bit(weight(64) / 0),
    "both absmax and out": lambda: ours.dequantize_4bit(CODES, absmax=STATE.absmax),
    "should have shape, dtype": lambda: ours.dequantize_4bit(CODES, WITHOUT_DTYPE),
    "codes of a nf4 weight": lambda: ours.dequantize_4bit(CODES[1:], STATE),
    "out should be float32": lambda: ours.dequantize_4bit(
        CODES, STATE, out=torch.empty(64, 96, dtype=torch.bfloat16)
    ),
    "one quant_state": lambda: ours.QuantState.from_dict({"quant_state.x": CODES}, "cpu"),
    r"misses \['absmax'": lambda: ours.QuantState.from_dict({"quant_map": CODES}, "cpu"),
    r"holds \['else'\]": lambda: ours.QuantState.from_dict({**STATE.as_dict(), "else": 1}, "cpu"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_is_a_value_error(message: str):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_a_storage_that_does_not_divide_the_bytes_is_a_runtime_error():
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="divisible"):
            module.quantize_4bit(weight(3, 6), quant_storage=torch.float32)
