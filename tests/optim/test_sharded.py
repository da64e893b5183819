"""FSDP2: two processes, each with a shard of every parameter, do what one would do."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

import qlora_kernels as qk

PROCESSES = 2
Optimizer = torch.optim.Optimizer


def model() -> nn.Module:
    """Sizes that no number of processes divides, and one row that only the first can have."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 131), nn.Linear(131, 1, bias=False), nn.Linear(1, 7))


def give_gradients(parameters: list[Any], seed: int, bad: bool = False) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        if bad:
            gradient.view(-1)[-1] = float("nan")  # in the shard of the last process
            bad = False
        if hasattr(parameter, "device_mesh"):
            mesh, placements = parameter.device_mesh, parameter.placements
            gradient = distribute_tensor(gradient, mesh, placements)
        parameter.grad = gradient


def sharded(**options: Any) -> tuple[list[Any], Optimizer]:
    made = model()
    fully_shard(made, mesh=init_device_mesh("cpu", (PROCESSES,)))
    parameters = list(made.parameters())
    return parameters, qk.optim.AdamW(parameters, lr=1e-2, **options)


def train(parameters: list[Any], optimizer: Optimizer, seeds: range) -> None:
    for seed in seeds:
        give_gradients(parameters, seed)
        optimizer.step()


def same(ours: list[Any], theirs: list[Any]) -> bool:
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in ours]
    other = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in theirs]
    return all(map(torch.equal, whole, other))


def check_one_process(folder: Path) -> None:
    """32-bit: the bits of one process; clipping sees the norm over all shards."""
    parameters, optimizer = sharded(max_gradient_norm=0.5)
    alone = list(model().parameters())
    train(parameters, optimizer, range(4))
    train(alone, qk.optim.AdamW(alone, lr=1e-2, max_gradient_norm=0.5), range(4))
    assert same(parameters, alone)


def check_bad_gradients(folder: Path) -> None:
    """One process alone sees it; all must leave the step out."""
    parameters, optimizer = sharded(bits=8)
    train(parameters, optimizer, range(1))
    before = [p.full_tensor().clone() for p in parameters]
    give_gradients(parameters, 1, bad=True)
    optimizer.step()
    assert optimizer.skipped_steps == 1 and same(parameters, before)


def check_state_dicts(folder: Path) -> None:
    for bits in (32, 8):
        for options in ({}, {"paged": True, "memory_budget": 9000, "page_file": folder}):
            parameters, optimizer = sharded(bits=bits, **options)
            plain_parameters, plain = sharded(bits=bits)
            train(parameters, optimizer, range(3))
            train(plain_parameters, plain, range(3))
            twin_parameters, twin = sharded(bits=bits, **options)
            with torch.no_grad():
                for p, q in zip(twin_parameters, parameters, strict=True):
                    p.copy_(q)
            path = folder / f"{bits}-{len(options)}-{distributed.get_rank()}.pt"
            torch.save(optimizer.state_dict(), path)
            twin.load_state_dict(torch.load(path, weights_only=False))
            for some, each in ((parameters, optimizer), (plain_parameters, plain)):
                train(some, each, range(3, 5))
            train(twin_parameters, twin, range(3, 5))
            assert same(parameters, plain_parameters) and same(parameters, twin_parameters)
            shapes = [tuple(p.shape) for p in parameters]
            state = optimizer.state_dict()["state"]
            assert [tuple(state[n]["exp_avg"].shape) for n in range(len(shapes))] == shapes


def check_whole_states(folder: Path) -> None:
    """A state dict of one process is cut; 8-bit shards are gathered as 32-bit values."""
    alone = list(model().parameters())
    one = qk.optim.AdamW(alone, lr=1e-2)
    train(alone, one, range(3))
    parameters, optimizer = sharded()
    with torch.no_grad():
        for p, q in zip(parameters, alone, strict=True):
            p.copy_(distribute_tensor(q.detach(), p.device_mesh, p.placements))
    optimizer.load_state_dict(one.state_dict())
    train(alone, one, range(3, 5))
    train(parameters, optimizer, range(3, 5))
    assert same(parameters, alone)
    parameters, optimizer = sharded(bits=8)
    train(parameters, optimizer, range(3))
    gathered = qk.optim.as_32_bit(optimizer.state_dict())["state"][0]["exp_avg"].full_tensor()
    exact_parameters, exact = sharded()
    train(exact_parameters, exact, range(3))
    expected = exact.state_dict()["state"][0]["exp_avg"].full_tensor()
    assert (gathered - expected).norm() < 0.05 * expected.norm()
    with pytest.raises(qk.InputError, match="should be whole, was sharded"):
        one.load_state_dict(optimizer.state_dict())


def run(rank: int, folder: Path, check: Callable[[Path], None]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    place = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=PROCESSES)
    try:
        check(folder)
    finally:
        distributed.destroy_process_group()


CHECKS = (check_one_process, check_bad_gradients, check_state_dicts, check_whole_states)


def check_everything(folder: Path) -> None:
    for check in CHECKS:
        check(folder)


def test_two_processes(tmp_path):
    """All checks in one go: starting processes is what takes time."""
    torch.multiprocessing.spawn(run, (tmp_path, check_everything), nprocs=PROCESSES)


def test_a_mixture_is_refused():
    from qlora_kernels.optim.sharded import sum_over_shards

    class Sharded:
        device_mesh, placements = "mesh", ()

        def to_local(self) -> None: ...

    with pytest.raises(qk.InputError, match="should all be sharded over one mesh"):
        sum_over_shards([torch.zeros(1), Sharded()])
    assert sum_over_shards([torch.zeros(1)]) is None
