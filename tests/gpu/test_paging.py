"""Paged states on the GPU: the bits of unpaged ones, over pinned memory and over a file."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from gpu.placed import BACKEND, forced
from qlora_kernels.gpu.availability import interpreting

SIZES = (5000, 12_000) if interpreting() else (3, 5000, 16 * 4096, 100_003)
STEPS = 2 if interpreting() else 4


@pytest.fixture(autouse=True)
def only_where_there_is_a_kernel() -> None:
    """Paging is no op: it runs adamw's."""
    if not (Path(qk.__file__).parent / f"ops/adamw/{BACKEND}_kernel.py").exists():
        pytest.skip(f"adamw has no {BACKEND} kernel")


def train(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        with forced():
            optimizer.step()


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("share", [10, 1])
def test_paged_is_unpaged(device: str, tmp_path: Path, share: int, in_file: bool):
    """A tenth of the states' memory, and all of it, where nothing is copied."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(size, device=device)) for size in SIZES]
    theirs = copy.deepcopy(ours)
    budget = qk.optim.state_bytes(ours, bits=8) // share
    options = {"paged": True, "memory_budget": budget, "page_file": tmp_path if in_file else None}
    optimizer = qk.optim.AdamW(ours, lr=1e-2, bits=8, **options)
    train(ours, optimizer, STEPS)
    train(theirs, qk.optim.AdamW(theirs, lr=1e-2, bits=8), STEPS)
    assert all(map(torch.equal, ours, theirs))
    stats = optimizer.paging_stats()
    assert (stats["copies"] > 0) == (share == 10)
    assert stats["peak_resident_bytes"] <= budget + 4 * len(SIZES)


def test_the_host_waits_for_nothing(device: str):
    """While pages pass through pinned memory; making the frames may wait, later steps may not."""
    if interpreting():
        pytest.skip("there are no streams without a GPU")
    ours = [nn.Parameter(torch.randn(size, device=device)) for size in SIZES]
    budget = qk.optim.state_bytes(ours, bits=8) // 10
    optimizer = qk.optim.AdamW(ours, bits=8, paged=True, memory_budget=budget)
    train(ours, optimizer, 2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with forced():
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert optimizer.paging_stats()["copies"] > 0
