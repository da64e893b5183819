"""The decoding PTX does what its tables say, for every byte and place; the tables lose little."""

import struct

import pytest
import torch

from kernels import ptx
from qlora_kernels.formats.codebooks import FORMATS
from qlora_kernels.gpu import permutes
from qlora_kernels.gpu.table import COPY, FACTOR, PLANES, table

FOUR_BIT = [name for name, f in FORMATS.items() if f.codebook]
WORDS = [
    int.from_bytes(bytes([i, (7 * i + 3) % 256, 255 - i, i ^ 0x5A]), "little") for i in range(256)
]
CPU = torch.device("cpu")


def operands(word: int, planes: torch.Tensor) -> list[int]:
    """A word of codes, and each table word for each of its four bytes."""
    words = [int(value) & ptx.MASK for value in planes for _ in range(4)]
    return [word, *words]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", FOUR_BIT)
def test_pairs(format: str, dtype: torch.dtype):
    tables = table(format, dtype, CPU)
    values = tables[:16].view(torch.float32).to(dtype).view(torch.int16)
    assembly, constraints = permutes.pairs()
    for word in WORDS:
        given = operands(word, tables[PLANES : PLANES + 8])
        assert constraints.count(",") + 1 == 4 + len(given)
        for byte, pair in zip(word.to_bytes(4, "little"), ptx.run(assembly, 4, given), strict=True):
            first, second = (int(values[code]) & 0xFFFF for code in (byte >> 4, byte & 15))
            assert pair == second << 16 | first


@pytest.mark.parametrize("format", FOUR_BIT)
def test_singles(format: str):
    tables = table(format, torch.float32, CPU)
    assembly, constraints = permutes.singles()
    for word in WORDS:
        given = operands(word, tables[PLANES : PLANES + 16])
        assert constraints.count(",") + 1 == 8 + len(given)
        found = ptx.run(assembly, 8, given)
        for i, byte in enumerate(word.to_bytes(4, "little")):
            assert found[i] == int(tables[byte >> 4]) & ptx.MASK
            assert found[4 + i] == int(tables[byte & 15]) & ptx.MASK


@pytest.mark.parametrize("format", FOUR_BIT)
def test_a_table_is_its_codebook(format: str):
    values = torch.tensor(FORMATS[format].codebook, dtype=torch.float64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tables = table(format, dtype, CPU)
        assert torch.equal(tables[:COPY], tables[COPY:])
        factor = struct.unpack("f", struct.pack("i", int(tables[FACTOR])))[0]
        rounded = tables[:16].view(torch.float32).double()
        assert torch.equal(rounded.to(dtype).double(), rounded), "exact in the dtype"
        plain = (values.to(dtype).double() - values).norm()
        assert (rounded * factor - values).norm() <= plain
