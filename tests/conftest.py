"""What every test folder shares: the backends that can run here, one thread, poisoned memory."""

import logging
from collections.abc import Iterator

import pytest
import torch

import qlora_kernels as qk

RUNNABLE = [name for name, why_not in qk.backends().items() if why_not is None]


@pytest.fixture(autouse=True)
def _audible() -> None:
    """Commands quieten the loggers of their process, also in fixtures of whole modules."""
    for name in ("qlora", "qlora.data", "qlora_kernels"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(params=RUNNABLE)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the one backend that runs every op of this test."""
    with qk.use_backend(request.param):
        yield request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny tensors, where a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poison() -> Iterator[None]:
    """Memory that torch hands out unwritten is NaN: a kernel that skips a value is seen."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
