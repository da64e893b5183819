"""The dynamic maps are the same bits on each machine, whatever its torch computes."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from qlora_kernels.formats.codebooks import dynamic_map, is_map, linspace

CPU = torch.device("cpu")
HASHES = {
    True: "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c",
    False: "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398",
}
PRINT_HASHES = """
import hashlib, torch
from qlora_kernels.formats.codebooks import dynamic_map
for signed in (True, False):
    values = dynamic_map(torch.device("cpu"), signed).numpy().astype("<f4")
    print(hashlib.sha256(values.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("signed", [True, False])
def test_here(signed: bool):
    values = dynamic_map(CPU, signed).numpy().astype("<f4")
    assert hashlib.sha256(values.tobytes()).hexdigest() == HASHES[signed]


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_whatever_instructions_torch_uses(capability: str):
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", PRINT_HASHES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(HASHES.values())


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 65, 255, 256])
@pytest.mark.parametrize("ends", [(0.1, 1.0), (-1.0, 1.0), (0.9677083, 0.5)])
def test_steps_are_even(ends: tuple[float, float], count: int):
    first, last = torch.tensor(ends).double()
    exact = torch.linspace(first.item(), last.item(), count, dtype=torch.float64)
    values = linspace(*ends, count)
    assert values[0] == first and (count == 1 or values[-1] == last)
    torch.testing.assert_close(values.double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("signed", [True, False])
def test_last_bits_do_not_matter(signed: bool):
    ours = dynamic_map(CPU, signed)
    for direction in (-2.0, 2.0):
        moved = torch.where(ours == 0, 0.0, ours.nextafter(torch.tensor(direction)))
        assert not torch.equal(moved, ours) and is_map(moved, ours)
    assert not is_map(ours * (1 + 1e-5), ours)
    assert not is_map(ours[:255], ours)
    assert not is_map(dynamic_map(CPU, not signed), ours)
    assert not is_map(ours.flip(0), ours)
