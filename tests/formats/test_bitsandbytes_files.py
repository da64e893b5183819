"""State dicts that bitsandbytes wrote are read to the same bits, and ours by bitsandbytes."""

import json
from itertools import product

import pytest
import torch
from bitsandbytes import functional, nn

import qlora_kernels as qk
from formats.peer import absmax_of, bits, dequantize_flat
from qlora_kernels.testing.cases import FLOAT_DTYPES, generator

FORMATS = ("nf4", "fp4")
NESTED = (False, True)
STORAGE = (torch.uint8, torch.bfloat16, torch.float16, torch.float32)


def their_layer(format: str, nested: bool, storage: torch.dtype = torch.uint8) -> nn.Linear4bit:
    layer = nn.Linear4bit(
        160, 96, compress_statistics=nested, quant_type=format, quant_storage=storage
    )
    w = torch.randn(96, 160, generator=generator(format)).bfloat16()
    layer.weight = nn.Params4bit(
        w, compress_statistics=nested, quant_type=format, quant_storage=storage, module=layer
    )
    return layer.to("cpu")


def their_state(format: str = "nf4", nested: bool = True) -> dict[str, torch.Tensor]:
    return their_layer(format, nested).state_dict()


@pytest.mark.parametrize(("format", "nested", "storage"), list(product(FORMATS, NESTED, STORAGE)))
def test_theirs_is_read(format: str, nested: bool, storage: torch.dtype):
    layer = their_layer(format, nested, storage)
    q = qk.QuantizedTensor.from_bitsandbytes(layer.state_dict())
    assert (q.format, q.block_size, q.dtype) == (format, 64, torch.bfloat16)
    assert list(q.shape) == [96, 160] and q.double_quant == nested
    absmax = absmax_of(layer.weight.quant_state)
    assert torch.equal(bits(q.absmax), bits(absmax))
    for dtype in FLOAT_DTYPES:
        truth = dequantize_flat(q.codes, absmax, format, 64, dtype)
        assert torch.equal(bits(qk.dequantize(q, dtype)).view(-1), bits(truth))


@pytest.mark.parametrize("shape", [(96, 160), (7, 33), (515,)])
@pytest.mark.parametrize(("format", "nested"), list(product(FORMATS, NESTED)))
def test_ours_is_read_by_theirs(format: str, nested: bool, shape: tuple[int, ...]):
    w = torch.randn(shape, generator=generator(shape))
    q = qk.quantize(w, format, 128, nested)
    state = q.to_bitsandbytes(prefix="layer.weight")
    codes = state.pop("layer.weight")
    parameter = nn.Params4bit.from_prequantized(
        codes, {k.removeprefix("layer.weight."): v for k, v in state.items()}, device="cpu"
    )
    theirs = parameter.quant_state
    assert (theirs.quant_type, theirs.blocksize, theirs.dtype) == (format, 128, torch.float32)
    assert theirs.shape == w.shape and theirs.nested == nested
    absmax = absmax_of(theirs)
    assert torch.equal(bits(absmax), bits(q.absmax))
    truth = dequantize_flat(parameter.data, absmax, format, 128, torch.float32)
    assert torch.equal(bits(qk.dequantize(q)).view(-1), bits(truth)[: w.numel()])


@pytest.mark.parametrize(("format", "nested"), list(product(FORMATS, NESTED)))
def test_there_and_back_is_the_identity(format: str, nested: bool):
    theirs = their_state(format, nested)
    ours = qk.QuantizedTensor.from_bitsandbytes(theirs).to_bitsandbytes()
    assert ours.keys() == theirs.keys() - {"bias"}
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype and tensor.shape == theirs[key].shape, key
        assert torch.equal(tensor, theirs[key]), key


def test_only_4_bit_formats_are_written():
    q = qk.quantize(torch.randn(4, 64), "int8")
    with pytest.raises(qk.InputError, match="format should be nf4 or fp4, was 'int8'"):
        q.to_bitsandbytes()


@pytest.mark.parametrize(
    "missing", ["weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"]
)
def test_a_missing_key_is_named(missing: str):
    state = their_state()
    del state[missing]
    with pytest.raises(qk.InputError, match=f"should hold {missing}, holds"):
        qk.QuantizedTensor.from_bitsandbytes(state)


def test_another_map_is_refused():
    for key in ("weight.quant_map", "weight.nested_quant_map"):
        state = their_state()
        state[key] = state[key] * 0.5
        with pytest.raises(qk.InputError, match=f"{key} should be the standard map"):
            qk.QuantizedTensor.from_bitsandbytes(state)


def test_a_map_of_other_last_bits_is_read_as_ours():
    """As a processor writes it on which torch.linspace rounds otherwise."""
    state = their_state()
    ours = qk.QuantizedTensor.from_bitsandbytes(state)
    key = "weight.nested_quant_map"
    state[key] = (bits(state[key]) + torch.arange(256, dtype=torch.int32) % 3 - 1).view(torch.float)
    state[key][127] = 0.0
    read = qk.QuantizedTensor.from_bitsandbytes(state)
    assert torch.equal(bits(qk.dequantize(read)), bits(qk.dequantize(ours)))


FACTS = "weight.quant_state.bitsandbytes__nf4"


def edited(state: dict[str, torch.Tensor], **changes: object) -> dict[str, torch.Tensor]:
    """The state with other facts in its JSON; None removes one."""
    facts = json.loads(bytes(state[FACTS].tolist())) | changes
    kept = {k: v for k, v in facts.items() if v is not None}
    return {
        **state,
        FACTS: torch.frombuffer(bytearray(json.dumps(kept).encode()), dtype=torch.uint8),
    }


@pytest.mark.parametrize("fact", ["shape", "dtype", "blocksize", "nested_offset"])
def test_a_missing_fact_is_refused(fact: str):
    with pytest.raises(qk.InputError, match=fact):
        qk.QuantizedTensor.from_bitsandbytes(edited(their_state(), **{fact: None}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": [96, 161]}, "codes of a nf4 weight [96, 161] should be torch.uint8 [7728, 1]"),
        ({"shape": "square"}, "shape"),
        ({"blocksize": 48}, "block_size should be one of 32, 64,"),
        ({"blocksize": "many"}, "blocksize"),
        ({"blocksize": 128}, "scales of a nf4 weight [96, 160] should be torch.uint8 [120]"),
        ({"dtype": "decimal"}, "dtype should be a torch dtype, was 'decimal'"),
        ({"nested_blocksize": 128}, "nested_blocksize should be 256, was 128"),
        ({"nested_offset": "low"}, "nested_offset"),
    ],
)
def test_a_fact_that_lies_is_refused(changes: dict[str, object], text: str):
    with pytest.raises(qk.InputError) as refusal:
        qk.QuantizedTensor.from_bitsandbytes(edited(their_state(), **changes))
    assert text in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_state_that_lost_its_nested_scales_is_refused():
    state = their_state()
    del state["weight.nested_absmax"]
    with pytest.raises(qk.InputError, match=r"scales of a nf4 weight .* should be torch.float32"):
        qk.QuantizedTensor.from_bitsandbytes(state)


def test_a_nested_absmax_in_bfloat16_is_read():
    """Some published checkpoints were cast to bfloat16 as a whole."""
    state = their_state()
    state["weight.nested_absmax"] = state["weight.nested_absmax"].bfloat16()
    q = qk.QuantizedTensor.from_bitsandbytes(state)
    assert q.nested_absmax.dtype == torch.float32


def test_their_functional_state_is_read():
    """`QuantState.as_dict(packed=True)`, as transformers writes it, with no layer around."""
    codes, state = functional.quantize_4bit(
        torch.randn(33, 5), quant_type="nf4", compress_statistics=True
    )
    packed = {f"w.{k}": v for k, v in state.as_dict(packed=True).items()}
    q = qk.QuantizedTensor.from_bitsandbytes({"w": codes, **packed}, prefix="w")
    assert torch.equal(bits(q.absmax), bits(absmax_of(state))) and q.shape == (33, 5)
