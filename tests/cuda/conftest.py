"""Tests of the CUDA kernels without a GPU: the same sources, run thread by thread on the CPU.

Under each schedule: threads between two barriers, and blocks, run in order or shuffled by a seed.
"""

from collections.abc import Iterator
from typing import Any

import pytest

import qlora_kernels as qk
from cuda.build import ROOT, emulated
from qlora_kernels.gpu import cuda_module

SCHEDULES = {"in order": 0, "shuffled": 20260731}


@pytest.fixture(scope="session")
def kernels() -> Any:
    """The module `_cuda`, compiled for the CPU."""
    sources = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    return emulated("_cuda", sources, sorted((ROOT / "csrc/bindings").glob("cuda*.cpp")))


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest, kernels: Any) -> Iterator[str]:
    """The name of the order in which threads run."""
    kernels.set_schedule(SCHEDULES[request.param])
    yield request.param
    kernels.set_schedule(0)


@pytest.fixture
def cuda(
    schedule: str, kernels: Any, monkeypatch: pytest.MonkeyPatch, one_thread: None, poison: None
) -> Iterator[None]:
    """The backend cuda runs every op of this test, emulated."""
    monkeypatch.setattr(cuda_module, "loaded", lambda: cuda_module.Loaded(kernels, "cpu", None))
    with qk.use_backend("cuda"):
        yield
