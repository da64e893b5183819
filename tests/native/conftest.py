"""Every instruction set that this machine runs, forced in turn."""

from collections.abc import Iterator

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels import native

ISAS = native.cpu().available_isas()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the instruction set whose kernels run, on the cpu backend."""
    kernels = native.cpu()
    before = kernels.isa()
    kernels.use_isa(request.param)
    with qk.use_backend("cpu"):
        yield request.param
    kernels.use_isa(before)


@pytest.fixture(autouse=True)
def poison(one_thread: None) -> Iterator[None]:
    """Memory that torch hands out unwritten is NaN: a value that a kernel skips is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
