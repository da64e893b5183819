"""Code maps are bitsandbytes', bit for bit."""

import bitsandbytes.functional as theirs
import pytest
import torch

import qlora_kernels.compat.bitsandbytes.functional as ours
from formats.peer import bits
from qlora_kernels.formats.codebooks import NF4, dynamic_map

BITS = range(2, 9)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("total_bits", BITS)
def test_maps_of_every_width(signed: bool, total_bits: int):
    for add_zero in (True, False):
        arguments = (signed, total_bits, add_zero)
        mine, other = (m.create_linear_map(*arguments) for m in (ours, theirs))
        assert torch.equal(bits(mine), bits(other))
    for exponent_bits in range(1, total_bits - signed + 1):
        arguments = (signed, exponent_bits, total_bits - signed - exponent_bits, total_bits)
        mine, other = (m.create_fp8_map(*arguments) for m in (ours, theirs))
        assert torch.equal(bits(mine), bits(other))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("total_bits", BITS)
def test_dynamic_maps_or_the_same_refusal(signed: bool, total_bits: int):
    for max_exponent_bits in range(1, total_bits + 2):
        arguments = (signed, max_exponent_bits, total_bits)
        try:
            truth = theirs.create_dynamic_map(*arguments)
        except AssertionError:
            with pytest.raises(ValueError, match=f"should give {2**total_bits} values"):
                ours.create_dynamic_map(*arguments)
        else:
            assert torch.equal(bits(ours.create_dynamic_map(*arguments)), bits(truth))


def test_the_default_is_the_map_of_our_formats():
    assert torch.equal(ours.create_dynamic_map(), dynamic_map(torch.device("cpu")))


def test_the_normal_map_is_nf4():
    values = ours.create_normal_map()
    assert torch.equal(values[values != 0], torch.tensor([value for value in NF4 if value]))
    assert ours.create_normal_map(use_extra_value=False).unique().numel() == 15


@pytest.mark.parametrize("name", ["nf4", "fp4", "af4"])
def test_4_bit_types(name: str):
    mine, other = (m.get_4bit_type(name, device="cpu") for m in (ours, theirs))
    assert torch.equal(bits(mine), bits(other))


def test_what_is_refused():
    with pytest.raises(NotImplementedError, match="nf4, fp4 or af4"):
        ours.get_4bit_type("nf3")
    with pytest.raises(NotImplementedError, match="blocksize of af4 should be 64"):
        ours.get_4bit_type("af4", blocksize=128)
    with pytest.raises(ValueError, match="sum of sign"):
        ours.create_fp8_map(True, 5, 3, 8)
