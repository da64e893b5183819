"""The generator against its authors' vectors, and masks against the reference backend."""

import pytest
import torch

import qlora_kernels as qk
from native.guarded import guarded
from qlora_kernels import native

# counter, key -> output: kat_vectors of Random123, "philox4x32 10".
KNOWN_ANSWERS = {
    "0": ("00000000 00000000 00000000 00000000", "00000000 00000000",
          "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
             "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
           "d16cfe09 94fdcceb 5001e420 24126ea1"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_known_answers(name: str):
    counter, key, output = ([int(w, 16) for w in words.split()] for words in KNOWN_ANSWERS[name])
    assert native.cpu().philox4x32_10(counter, *key) == output


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("seed", [0, -1, 1 << 62, -123456789012])
def test_masks_are_the_reference(isa: str, seed: int, p: float):
    for size in (0, 1, 7, 8, 1025):
        ours = qk.dropout_mask(seed, (size,), p)
        with qk.use_backend("reference"):
            assert torch.equal(ours, qk.dropout_mask(seed, (size,), p))


def test_masks_stay_inside_their_output(isa: str):
    with guarded() as memory:
        for size in (0, 1, 9, 130):
            out = memory.empty((size,), offset=1)
            native.cpu().dropout_mask(torch.tensor(5), 0.3, out, 3)
            assert not out.isnan().any()


def test_counters_beyond_32_bits():
    """Element 2^32 has a counter of its own: the high word is used."""
    low = native.cpu().philox4x32_10([0, 0, 0, 0], 1, 2)
    high = native.cpu().philox4x32_10([0, 1, 0, 0], 1, 2)
    assert low[0] != high[0]
