"""Every instruction set that this machine runs, forced in turn."""

from collections.abc import Iterator

import pytest
import torch

import qlora_kernels as qk
from native import emulated
from qlora_kernels import native

ISAS = native.cpu().available_isas()
EMULATED = ("avx512 emulated", "avx512 without extensions emulated")
ISAS_AND_EMULATED = [*ISAS, *EMULATED]  # also where AVX-512 runs: it may lack an extension


def use(isa: str) -> None:
    """Run this instruction set's kernels from here on."""
    if isa in EMULATED:
        native.cpu().use_kernels(emulated.kernels(with_extensions=isa == EMULATED[0]))
    else:
        native.cpu().use_isa(isa)


@pytest.fixture(params=ISAS_AND_EMULATED)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the instruction set whose kernels run, on the cpu backend."""
    before = native.cpu().isa()
    use(request.param)
    with qk.use_backend("cpu"):
        yield request.param
    native.cpu().use_isa(before)


@pytest.fixture(autouse=True)
def poison(one_thread: None) -> Iterator[None]:
    """Memory that torch hands out unwritten is NaN: a value that a kernel skips is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
