"""The quantized tensor as a value: what it tells, how it moves, and what it refuses to be."""

import json
import pickle
from dataclasses import FrozenInstanceError, replace
from itertools import product
from pathlib import Path

import pytest
import torch

import qlora_kernels as qk
from formats.peer import bits
from qlora_kernels.formats.codebooks import BLOCK_SIZES, FORMATS
from qlora_kernels.testing.cases import FLOAT_DTYPES, generator

PARTS = ("codes", "scales", "nested_absmax", "nested_offset")


def quantized(format: str = "nf4", double_quant: bool = True, shape=(48, 80)) -> qk.QuantizedTensor:
    w = torch.randn(shape, generator=generator((format, shape))).bfloat16()
    return qk.quantize(w, format, 64, double_quant)


def assert_same(left: qk.QuantizedTensor, right: qk.QuantizedTensor) -> None:
    for part in PARTS:
        a, b = getattr(left, part), getattr(right, part)
        assert (a is None) == (b is None), part
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), part
    facts = ("shape", "dtype", "format", "block_size", "double_quant")
    assert [getattr(left, f) for f in facts] == [getattr(right, f) for f in facts]


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        quantized().codes = torch.zeros(1)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("format", FORMATS)
def test_nbytes_counts_what_is_stored(format: str, block_size: int, double_quant: bool):
    count = 3 * 4097
    q = qk.quantize(torch.randn(3, 4097), format, block_size, double_quant)
    blocks = -(-count // block_size)
    scales = blocks + 4 * -(-blocks // 256) + 4 if double_quant else 4 * blocks
    assert q.nbytes == -(-count * FORMATS[format].bits // 8) + scales
    assert q.numel() == count and q.absmax.shape == (blocks,) and q.absmax.dtype == torch.float32


def test_double_quantized_nf4_is_below_its_budget():
    q = qk.quantize(torch.randn(1024, 1024))
    assert q.nbytes / q.numel() <= 0.517


def test_to_changes_the_place_only():
    q = quantized()
    assert q.to("meta").codes.device == torch.device("meta") == q.to("meta").device
    assert_same(q.to("cpu"), q)


@pytest.mark.parametrize(("format", "double_quant"), list(product(FORMATS, (False, True))))
@pytest.mark.parametrize("shape", [(48, 80), (5, 33), (129,), (2, 3, 4), (0, 64), ()])
def test_every_form_of_storage_is_exact(format: str, double_quant: bool, shape, tmp_path: Path):
    q = quantized(format, double_quant, shape)
    assert_same(pickle.loads(pickle.dumps(q)), q)
    assert_same(qk.QuantizedTensor.from_state_dict(q.state_dict("a.b"), "a.b"), q)
    q.save(tmp_path / "q.safetensors")
    loaded = qk.QuantizedTensor.load(tmp_path / "q.safetensors")
    assert_same(loaded, q)
    assert torch.equal(bits(qk.dequantize(loaded)), bits(qk.dequantize(q)))
    assert [f.name for f in tmp_path.iterdir()] == ["q.safetensors"]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_the_weight_s_dtype_is_remembered(dtype: torch.dtype, backend: str):
    q = qk.quantize(torch.randn(4, 64).to(dtype))
    assert q.dtype == dtype == qk.dequantize(q).dtype


def test_an_empty_weight_is_quantized(backend: str):
    for format, double_quant in product(FORMATS, (False, True)):
        q = qk.quantize(torch.empty(0, 64), format, double_quant=double_quant)
        assert qk.dequantize(q).shape == (0, 64)
        assert q.codes.shape == (0, 1) and q.scales.shape == (0,)


def test_an_unreadable_file_is_refused(tmp_path: Path):
    (tmp_path / "cut").write_bytes(b"\x08\x00\x00")
    for path in (tmp_path / "absent", tmp_path / "cut", tmp_path):
        with pytest.raises(qk.InputError, match="should be a readable safetensors file"):
            qk.QuantizedTensor.load(path)


@pytest.mark.parametrize("missing", ["codes", "scales", "spec"])
def test_a_missing_part_is_named(missing: str):
    state = quantized().state_dict()
    del state[f"weight.{missing}"]
    with pytest.raises(qk.InputError, match=rf"should hold weight\.{missing}, holds \["):
        qk.QuantizedTensor.from_state_dict(state)


@pytest.mark.parametrize(
    ("part", "tensor", "text"),
    [
        ("codes", torch.zeros(1919, 1, dtype=torch.uint8), "should be torch.uint8 [1920, 1]"),
        ("codes", torch.zeros(1920, 1), "was torch.float32 [1920, 1]"),
        ("scales", torch.zeros(60), "scales of a nf4 weight [48, 80] should be torch.uint8 [60]"),
        ("nested_absmax", torch.zeros(2), "should be torch.float32 [1], was torch.float32 [2]"),
        ("nested_offset", torch.zeros(1), "should be torch.float32 [], was torch.float32 [1]"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(part, tensor, text):
    q = replace(quantized(), **{part: tensor})
    for refused in (q.check, lambda _: qk.dequantize(q), lambda _: qk.qlora_linear(X, q)):
        with pytest.raises(qk.InputError) as refusal:
            refused("op")
        assert text in str(refusal.value) and "\n" not in str(refusal.value)


X = torch.zeros(2, 80)


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_a_strided_part_is_refused(part: str):
    """Kernels read them as they lie; nothing that makes them is strided."""
    q = quantized()
    spread = getattr(q, part).repeat_interleave(2, dim=0)[::2]
    with pytest.raises(qk.InputError, match=f"op: {part} should be contiguous, was strided \\[2"):
        replace(q, **{part: spread}).check("op")


def test_half_a_double_quantization_is_refused():
    q = replace(quantized(double_quant=False), nested_offset=torch.zeros(()))
    with pytest.raises(qk.InputError, match="nested_absmax and nested_offset should come together"):
        qk.dequantize(q)


@pytest.mark.parametrize(
    ("fact", "lie", "text"),
    [
        ("shape", [48, 81], "codes of a nf4 weight [48, 81] should be"),
        ("shape", 48, "shape should be sizes, was 48"),
        ("dtype", "decimal", "dtype should be a torch dtype, was 'decimal'"),
        ("dtype", 16, "dtype should be a torch dtype, was 16"),
        ("format", "nf5", "format should be one of nf4, fp4, int8, nf4-tuned, was 'nf5'"),
        ("block_size", 48, "block_size should be one of 32, 64, 128"),
        ("block_size", "many", "block_size should be int, was 'many'"),
    ],
)
def test_a_spec_that_lies_is_refused(fact: str, lie: object, text: str):
    state = quantized().state_dict()
    spec = json.loads(bytes(state["weight.spec"].tolist())) | {fact: lie}
    state["weight.spec"] = torch.frombuffer(bytearray(json.dumps(spec).encode()), dtype=torch.uint8)
    with pytest.raises(qk.InputError) as refusal:
        qk.QuantizedTensor.from_state_dict(state)
    assert text in str(refusal.value)


@pytest.mark.parametrize(
    "garbage",
    [torch.zeros(3, dtype=torch.uint8), torch.zeros(2, 2), torch.tensor([91, 93]).byte()],
)
def test_metadata_that_is_no_json_object_is_refused(garbage: torch.Tensor):
    state = quantized().state_dict() | {"weight.spec": garbage}
    with pytest.raises(qk.InputError, match="metadata should be"):
        qk.QuantizedTensor.from_state_dict(state)
