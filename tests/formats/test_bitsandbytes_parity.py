"""4-bit codes, absmax and dequantized values are bitsandbytes', bit for bit, on finite input."""

from itertools import product

import pytest
import torch
from bitsandbytes import functional

import qlora_kernels as qk
from formats.peer import absmax_of, bits, dequantize_flat
from formats.weights import KINDS, random_weight
from qlora_kernels.formats.codebooks import BLOCK_SIZES, codebook, dynamic_map
from qlora_kernels.testing.cases import FLOAT_DTYPES, generator

CPU = torch.device("cpu")
FORMATS = ("nf4", "fp4")
NUM_CASES = len(FORMATS) * len(BLOCK_SIZES) * len(KINDS) * len(FLOAT_DTYPES)


def test_there_are_enough_cases():
    assert NUM_CASES >= 500


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("format", FORMATS)
def test_codes_absmax_and_values(backend: str, format: str, block_size: int):
    random = generator((format, block_size))
    for kind, dtype in product(KINDS, FLOAT_DTYPES):
        w = random_weight(kind, block_size, dtype, random)
        ours = qk.quantize(w, format, block_size, double_quant=False)
        codes, state = functional.quantize_4bit(w, blocksize=block_size, quant_type=format)
        case = f"{kind.__name__} {dtype} {list(w.shape)}"
        assert torch.equal(ours.codes, codes), f"codes of {case}"
        assert torch.equal(bits(ours.absmax), bits(state.absmax)), f"absmax of {case}"
        for out_dtype in FLOAT_DTYPES:
            truth = dequantize_flat(codes, state.absmax, format, block_size, out_dtype)
            values = qk.dequantize(ours, out_dtype)
            assert values.shape == w.shape
            assert torch.equal(bits(values).view(-1), bits(truth)[: w.numel()]), f"values of {case}"


@pytest.mark.parametrize("format", FORMATS)
def test_the_flat_call_is_what_its_users_see(format: str):
    """Where bitsandbytes has no trouble (whole blocks in each row), its public call agrees."""
    w = torch.randn(6, 256, generator=generator(format))
    codes, state = functional.quantize_4bit(w, quant_type=format)
    flat = dequantize_flat(codes, state.absmax, format, state.blocksize, w.dtype)
    assert torch.equal(functional.dequantize_4bit(codes, state).view(-1), flat)


@pytest.mark.parametrize("format", FORMATS)
def test_nested_scales_of_theirs_decode_to_the_same_bits(backend: str, format: str):
    w = torch.randn(70, 1000, generator=generator(format))
    codes, state = functional.quantize_4bit(w, quant_type=format, compress_statistics=True)
    packed = {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    q = qk.QuantizedTensor.from_bitsandbytes({"weight": codes, **packed})
    truth = absmax_of(state)
    assert torch.equal(bits(q.absmax), bits(truth))
    flat = dequantize_flat(codes, truth, format, state.blocksize, w.dtype)
    assert torch.equal(bits(qk.dequantize(q)).view(-1), bits(flat))


@pytest.mark.parametrize("format", FORMATS)
def test_codebooks_are_theirs(format: str):
    assert torch.equal(bits(codebook(format, CPU)), bits(functional.get_4bit_type(format, "cpu")))


def test_the_dynamic_map_is_theirs():
    assert torch.equal(bits(dynamic_map(CPU)), bits(functional.create_dynamic_map()))


def test_a_non_contiguous_weight_is_read_row_by_row(backend: str):
    w = torch.randn(96, 50, generator=generator("strides"))
    for view in (w.T, w[::2, 1::3], w[:, :1].expand(96, 7)):
        assert torch.equal(qk.quantize(view).codes, qk.quantize(view.clone()).codes)
