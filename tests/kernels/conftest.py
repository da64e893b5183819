"""Tests of the Triton kernels: interpreted on the CPU, or compiled where there is a GPU.

Triton decides when it reads a kernel whether to interpret it, for the whole process. So without a
GPU only test_interpreted.py is collected, which runs the others again under TRITON_INTERPRET=1.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import qlora_kernels as qk
from qlora_kernels.gpu.availability import interpreting, triton_refusal

INTERPRETED = interpreting()
RUNS_HERE = triton_refusal() is None
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DRIVER = "test_interpreted.py"
NO_KERNEL = (
    "test_permutes.py",
    "test_plan.py",
    "test_sizes_of_one.py",
    "test_tuned.py",
)  # run no kernel, so they run everywhere


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path.suffix != ".py" or collection_path.name in NO_KERNEL:
        return None
    return (collection_path.name == DRIVER) == RUNS_HERE or None


@pytest.fixture(autouse=True)
def forced(one_thread: None, poison: None) -> Iterator[None]:
    if not RUNS_HERE:
        yield
        return
    with qk.use_backend("triton"):
        yield


@pytest.fixture
def device() -> torch.device:
    return DEVICE
