"""Tests of the GPU kernels: `make gpu` runs them; without a GPU each says that it is missing.

TRITON_INTERPRET=1 runs the first few cases on the CPU instead, as a rehearsal.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import qlora_kernels as qk
from gpu.placed import BACKEND
from qlora_kernels.gpu.availability import interpreting

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder are GPU tests; why they can't run is the reason that pytest prints."""
    why_not = qk.backends()[BACKEND]
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if why_not:
                item.add_marker(pytest.mark.skip(reason=f"{why_not} (make gpu runs these)"))


@pytest.fixture
def device() -> str:
    return "cpu" if interpreting() else "cuda"


@pytest.fixture(autouse=True)
def only_where_there_is_a_kernel(request: pytest.FixtureRequest) -> None:
    """A file test_<op>.py tests an op: a room without kernel for this backend is named."""
    op = request.path.stem.removeprefix("test_")
    if not (Path(qk.__file__).parent / "ops" / op / f"{BACKEND}_kernel.py").exists():
        pytest.skip(f"{op} has no {BACKEND} kernel")


@pytest.fixture(autouse=True)
def poisoned_memory(poison: None) -> Iterator[None]:
    """Memory that torch hands out unwritten is NaN, on the GPU too."""
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # an error of a kernel belongs to the test that launched it
