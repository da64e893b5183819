"""Paged and not, the same bits; copies, pickles, failures and files in between."""

import copy
import errno
import os
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

import qlora_kernels as qk
from qlora_kernels.optim.paging.stores import PageFile

SHAPES = ((60, 100), (5000,), (3,), (1, 257), (), (9000,))
Optimizer = torch.optim.Optimizer


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def train(optimizer: Optimizer, steps: int, seed: int = 0) -> None:
    """Gradients that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def weights(optimizer: Optimizer) -> list[torch.Tensor]:
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def states_of(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{number}/{name}": tensor
        for number, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def same_states(one: Optimizer, other: Optimizer) -> bool:
    first, second = states_of(one), states_of(other)
    assert first.keys() == second.keys() != set()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(params=[(32, torch.float32), (8, torch.float32), (8, torch.bfloat16)], ids=str)
def make(request: pytest.FixtureRequest) -> Callable[..., Optimizer]:
    """`make(paged=True)`: an optimizer over the same parameters each time."""
    bits, dtype = request.param
    return lambda **options: qk.optim.AdamW(parameters(dtype), lr=1e-2, bits=bits, **options)


@pytest.fixture(params=[None, 10**7, 14_000], ids=["unlimited", "all fits", "a fraction"])
def paging(request: pytest.FixtureRequest, tmp_path) -> dict[str, object]:
    return {"paged": True, "memory_budget": request.param, "page_file": tmp_path}


def test_paged_is_unpaged(make, paging):
    plain, paged = make(), make(**paging)
    for seed in range(3):
        train(plain, 5, seed)
        train(paged, 5, seed)
        assert same(weights(plain), weights(paged))
        assert same_states(plain, paged)
    stats = paged.paging_stats()
    budget = paging["memory_budget"]
    assert stats["peak_resident_bytes"] <= (budget or stats["state_bytes"]) + 4 * len(SHAPES)
    assert (stats["copies"] > 0) == (budget == 14_000)


def test_parameters_that_join_later(make, paging):
    plain, paged = make(), make(**paging)
    for optimizer in (plain, paged):
        some, *others = optimizer.param_groups[0]["params"]
        for step in range(4):
            for parameter in [some] if step < 2 else [some, *others]:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(6000))]})
        train(optimizer, 3)
    assert same(weights(plain), weights(paged)) and same_states(plain, paged)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state dict"])
def test_a_copy_goes_on_alone_with_the_same_bits(make, paging, way):
    plain, paged = make(), make(**paging)
    train(plain, 3)
    train(paged, 3)
    if way == "deepcopy":
        twin = copy.deepcopy(paged)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(paged))
    else:
        twin = make(**paging)
        with torch.no_grad():
            for theirs, ours in zip(weights(paged), twin.param_groups[0]["params"], strict=True):
                ours.copy_(theirs)
        twin.load_state_dict(paged.state_dict())
    before = weights(twin), twin.state_dict()
    train(paged, 2, seed=1)
    assert same(weights(twin), before[0])
    train(twin, 2, seed=1)
    train(plain, 2, seed=1)
    assert same(weights(twin), weights(plain)) and same(weights(paged), weights(plain))
    assert same_states(twin, plain) and same_states(paged, plain)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_out_of_memory_in_a_step(make, paging, call, backend, monkeypatch):
    """The native kernel takes all pages in one call, the reference page by page."""
    with qk.use_backend(backend):
        out_of_memory_in_a_step(make, paging, call if backend == "reference" else 0, monkeypatch)


def out_of_memory_in_a_step(make, paging, call, monkeypatch):
    plain, paged = make(), make(**paging)
    train(plain, 4)
    train(paged, 2)
    from qlora_kernels.optim import paged as module

    calls = []

    def failing(whole):
        def step(*arguments):
            calls.append(1)
            if len(calls) == min(call, paged_calls) + 1:
                raise torch.OutOfMemoryError("simulated")
            return whole(*arguments)

        return step

    paged_calls = 0 if not paged.paging_stats()["copies"] else call
    generator = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(s, generator=generator) for s in SHAPES] for _ in range(4)]
    for step in (2, 3):
        for parameter, gradient in zip(
            paged.param_groups[0]["params"], gradients[step], strict=True
        ):
            parameter.grad = gradient.to(parameter.dtype)
        with monkeypatch.context() as patch:
            if step == 2:
                for name in ("adamw_step", "adamw_step_in_file"):
                    patch.setattr(module, name, failing(getattr(module, name)))
            paged.step()
    assert paged.paging_stats()["evictions"] == 1
    assert same(weights(plain), weights(paged)) and same_states(plain, paged)


def test_out_of_memory_before_a_step(make, paging, monkeypatch):
    plain, paged = make(), make(**paging)
    train(plain, 2)
    train(paged, 1)
    from qlora_kernels.optim import adamw as module

    whole, calls = module.gradient_gate, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("simulated")
        return whole(*arguments)

    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for parameter in paged.param_groups[0]["params"]:
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.to(parameter.dtype)
    monkeypatch.setattr(module, "gradient_gate", failing)
    paged.step()
    assert paged.paging_stats()["evictions"] == 1
    assert same(weights(plain), weights(paged)) and same_states(plain, paged)


def test_a_full_disk_is_found_before_anything_changes(make, paging, monkeypatch):
    plain, paged = make(), make(**paging)
    before = weights(paged)

    def full(descriptor, offset, count):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if paging["memory_budget"] == 14_000:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(qk.InputError, match="should have room for"):
                train(paged, 1)
        assert same(weights(paged), before)
        assert all(state["step"] == 0 for state in paged.state.values())
    train(plain, 2)
    train(paged, 2)
    assert same(weights(plain), weights(paged)) and same_states(plain, paged)


def test_a_refused_first_step_leaves_no_states(make, paging):
    """Places in pages alone are no states: what is saved can be loaded, and copied."""
    plain, paged = make(), make(**paging)
    parameter = paged.param_groups[0]["params"][0]
    parameter.grad = torch.ones_like(parameter).to_sparse()
    with pytest.raises(qk.InputError, match="a gradient should be dense"):
        paged.step()
    parameter.grad = None
    assert not paged.state_dict()["state"]
    twin = copy.deepcopy(paged)
    paged.load_state_dict(paged.state_dict())
    for optimizer in (plain, paged, twin):
        train(optimizer, 2)
        assert same(weights(plain), weights(optimizer)) and same_states(plain, optimizer)


def test_a_bad_gradient_changes_no_page(make, paging):
    paged = make(**paging)
    train(paged, 2)
    before = weights(paged), {k: v.clone() for k, v in states_of(paged).items()}
    paged.param_groups[0]["params"][-1].grad[5] = float("nan")
    paged.step()
    assert paged.skipped_steps == 1
    assert same(weights(paged), before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in states_of(paged).items())


def test_parameters_whose_memory_moves(make, paging):
    plain, paged = make(), make(**paging)
    for optimizer in (plain, paged):
        train(optimizer, 2)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.data = parameter.data.clone()
        train(optimizer, 2, seed=1)
    assert same(weights(plain), weights(paged))


def test_a_budget_of_a_tenth():
    """Of the size of the states: the same weights, and the pages move."""
    large = [nn.Parameter(torch.randn(300, 1000)), nn.Parameter(torch.randn(100_001))]
    twins = copy.deepcopy(large)
    plain = qk.optim.AdamW(large, bits=8)
    train(plain, 1)
    budget = plain.paging_stats()["state_bytes"] // 10
    paged = qk.optim.AdamW(twins, bits=8, paged=True, memory_budget=budget)
    train(paged, 1)
    train(plain, 4, seed=1)
    train(paged, 4, seed=1)
    assert same(weights(plain), weights(paged)) and same_states(plain, paged)
    stats = paged.paging_stats()
    assert stats["resident_bytes"]["device"] <= budget < stats["resident_bytes"]["file"]
    assert stats["copies_in"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paged": True, "memory_budget": 0}, "memory_budget should be a number of bytes, was 0"),
        ({"paged": True, "memory_budget": "1G"}, "memory_budget should be a number of bytes, was"),
        ({"memory_budget": 10**6}, "memory_budget should come with paged=True, came without"),
        ({"page_file": "states"}, "page_file should come with paged=True, came without"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(qk.InputError, match=message):
        qk.optim.AdamW(parameters(), **options)


@pytest.mark.parametrize(("bits", "dtype"), [(32, torch.float32), (8, torch.bfloat16)])
def test_the_smallest_budget_is_told_at_once_and_works(bits, dtype):
    make = partial(qk.optim.AdamW, bits=bits, paged=True)
    with pytest.raises(qk.InputError, match="memory_budget should be at least") as error:
        make(parameters(dtype), memory_budget=1000)
    smallest = int(str(error.value).split("at least ")[1].split()[0])
    with pytest.raises(qk.InputError, match=f"at least {smallest} bytes, .* was {smallest - 1}"):
        make(parameters(dtype), memory_budget=smallest - 1)
    train(make(parameters(dtype), memory_budget=smallest), 1)


@pytest.mark.parametrize(("bits", "dtype"), [(32, torch.float32), (8, torch.bfloat16)])
def test_the_bytes_of_states_are_known_before(bits, dtype):
    optimizer = qk.optim.AdamW(parameters(dtype), bits=bits, paged=True)
    told = qk.optim.state_bytes(parameters(dtype), bits)
    train(optimizer, 1)
    assert told == optimizer.paging_stats()["state_bytes"]


def evened(budget: int, **options) -> tuple[Optimizer, Optimizer]:
    """Without pages and with, after two steps: the second is the kernel's own to copy."""
    made = [nn.Parameter(torch.linspace(-1, 1, n)) for n in (60_000, 5000, 3, 9001)]
    plain = qk.optim.AdamW(copy.deepcopy(made), bits=8)
    paged = qk.optim.AdamW(made, bits=8, paged=True, memory_budget=budget, **options)
    train(plain, 2)
    train(paged, 2)
    return plain, paged


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("budget", [8320, 30_000, 100_000])
def test_a_kernel_copies_what_has_no_frame(budget, threads):
    """Once in and once out, whatever the size of a page and however many share the room."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    plain, paged = evened(budget)
    stats = paged.paging_stats()
    train(plain, 3, seed=1)
    train(paged, 3, seed=1)
    torch.set_num_threads(before)
    after = paged.paging_stats()
    assert same(weights(plain), weights(paged)) and same_states(plain, paged)
    frames = budget // after["page_bytes"] - 1
    assert after["copies_in"] - stats["copies_in"] == 3 * (after["pages"] - frames)
    assert after["copies_out"] - stats["copies_out"] == 3 * (after["pages"] - frames)
    assert after["peak_resident_bytes"] <= budget + 4 * 4  # steps are beside the pages


def test_a_file_that_fails_a_kernel_ends_the_run(tmp_path):
    """What its pages hold is unknown: neither a step nor a state dict may use them again."""
    _, paged = evened(30_000, page_file=tmp_path)
    pager = paged._pages._devices[torch.device("cpu")].states._pager
    os.ftruncate(pager._store.descriptor, 0)
    for again in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            train(paged, 1, seed=again)
    with pytest.raises(OSError, match="Input/output error"):
        paged.state_dict()


def test_a_page_that_could_not_be_read_is_never_used(monkeypatch):
    """Not even by a step that finds it in its frame: the error of the read comes again."""
    _, paged = evened(30_000)
    paged.state_dict()  # after which nothing is left to be written, so that no write fails either
    failing, whole = [1], PageFile.read

    def read(store, page, frame):
        if failing and failing.pop():
            raise OSError(errno.EIO, "once")
        whole(store, page, frame)

    monkeypatch.setattr(PageFile, "read", read)
    with pytest.raises(OSError, match="once"):
        paged.state_dict()
    before = weights(paged)
    for again in range(4):  # as often as there are frames, and once more
        with pytest.raises(OSError, match="once"):
            train(paged, 1, seed=again)
    assert same(before, weights(paged))


def test_a_gradient_that_is_not_finite_copies_nothing():
    _, paged = evened(30_000)
    before = paged.paging_stats()
    paged.param_groups[0]["params"][1].grad[7] = float("inf")
    paged.step()
    assert paged.skipped_steps == 1 and paged.paging_stats() == before
