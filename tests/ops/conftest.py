"""Every test here runs on poisoned memory and on one thread."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poison(one_thread: None) -> Iterator[None]:
    """Memory that torch hands out unwritten is NaN: a kernel that skips a value is seen."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
