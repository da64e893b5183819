"""What an optimizer sees: the same states under any budget, whatever runs out."""

import copy
import os
from pathlib import Path

import pytest
import torch

from optim.paging.machines import World
from qlora_kernels.errors import InputError
from qlora_kernels.formats.blockwise8 import BLOCK
from qlora_kernels.optim.paging import PagedStates, StateArray
from qlora_kernels.optim.paging import states as states_module

CPU = torch.device("cpu")
ARRAYS = (
    StateArray("exp_avg", torch.uint8),
    StateArray("exp_avg_absmax", torch.float32, BLOCK, initial=0.5),
)
SIZES = [1, 255, 256, 257, 10_000, 0, 5000]
BUDGETS = [None, 1 << 20, 8192, 4 * 304]


def filled(budget: int | None, place: Path, **options) -> PagedStates:
    paged = PagedStates(CPU, budget, place, **options)
    assert paged.add([(size, ARRAYS) for size in SIZES]) == list(range(len(SIZES)))
    return paged


def step(pieces) -> None:
    """Depends on the element and on what was there."""
    for run, states in pieces:
        elements = torch.arange(run.start, run.start + run.count)
        states["exp_avg"].copy_((states["exp_avg"] * 3 + elements + run.tensor) % 251)
        blocks = torch.arange(len(states["exp_avg_absmax"])) + run.start // BLOCK
        states["exp_avg_absmax"].mul_(1.5).add_(blocks)


def expected(steps: int, wanted) -> dict[int, dict[str, torch.Tensor]]:
    states = {}
    for number in range(len(SIZES)):
        codes = torch.zeros(SIZES[number], dtype=torch.uint8)
        scales = torch.full((-(-SIZES[number] // BLOCK),), 0.5)
        for _ in range(steps if number in wanted else 0):
            codes.copy_((codes * 3 + torch.arange(SIZES[number]) + number) % 251)
            scales.mul_(1.5).add_(torch.arange(len(scales)))
        states[number] = {"exp_avg": codes, "exp_avg_absmax": scales}
    return states


def equal(one, other) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[n][k], other[n][k]) for n in one for k in one[n])


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory) -> dict[int, dict[str, torch.Tensor]]:
    paged = filled(None, tmp_path_factory.mktemp("unlimited"))
    for _ in range(5):
        paged.update(range(len(SIZES)), step)
    return paged.read(range(len(SIZES)))


def test_it_is_what_a_plain_loop_gives(unlimited):
    assert equal(unlimited, expected(5, range(len(SIZES))))


@pytest.mark.parametrize("budget", BUDGETS)
def test_any_budget_gives_the_same(budget, unlimited, tmp_path):
    paged = filled(budget, tmp_path)
    for _ in range(5):
        paged.update(range(len(SIZES)), step)
    assert equal(paged.read(range(len(SIZES))), unlimited)
    stats = paged.stats()
    total = stats["resident_bytes"]["device"]
    assert stats["peak_resident_bytes"] == total <= (budget or total)
    fits = budget is None or stats["state_bytes"] <= budget
    assert (stats["copies"] == 0) == fits
    assert stats["page_bytes"] <= min(2 << 20, (budget or 2**40) // 4)
    assert (stats["resident_bytes"]["file"] == 0) == fits


@pytest.mark.parametrize("budget", BUDGETS)
def test_written_states_come_back(budget, unlimited, tmp_path):
    paged = filled(budget, tmp_path)
    paged.write(unlimited)
    assert equal(paged.read(range(len(SIZES))), unlimited)
    some = paged.read([3, 4])
    assert equal(some, {n: unlimited[n] for n in (3, 4)})


def test_only_what_is_wanted_changes(tmp_path):
    paged = filled(8192, tmp_path)
    paged.update([4], step)
    assert equal(
        {n: s for n, s in paged.read(range(len(SIZES))).items() if n != 4},
        {n: s for n, s in expected(0, ()).items() if n != 4},
    )


def test_tensors_that_come_later(unlimited, tmp_path):
    paged = PagedStates(CPU, 8192, tmp_path)
    for size in SIZES:
        paged.add([(size, ARRAYS)])
        paged.read(range(len(paged._tensors)))
    for _ in range(5):
        paged.update(range(len(SIZES)), step)
    assert equal(paged.read(range(len(SIZES))), unlimited)
    assert paged.stats()["peak_resident_bytes"] <= 8192


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("fails_at", [0, 1, 3])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_is_tried_once_more(budget, fails_at, error, unlimited, tmp_path):
    paged = filled(budget, tmp_path)
    for _ in range(4):
        paged.update(range(len(SIZES)), step)
    before, calls = paged.stats(), []
    last = before["pages"] - 1 if before["copies"] else 0  # what fits comes in one call

    def failing(pieces):
        calls.append(1)
        if len(calls) == 1 + min(fails_at, last):
            raise error("simulated")
        step(pieces)

    paged.update(range(len(SIZES)), failing)
    assert equal(paged.read(range(len(SIZES))), unlimited)
    stats = paged.stats()
    assert stats["evictions"] == 1
    assert stats["resident_bytes"]["device"] <= 4 * stats["page_bytes"]


def test_the_frames_are_gone_before_it_is_tried_again(tmp_path):
    """Nothing may keep them alive: neither the failed call nor its traceback."""
    world, alive = World(0), []

    class Memory:
        def __init__(self, num_bytes):
            alive.append(num_bytes)

        def __del__(self):
            alive.pop()

    def allocate(num_bytes):
        assert not alive, "two arenas at once"
        tensor = torch.empty(num_bytes, dtype=torch.uint8)
        tensor.untyped_storage()._owner = Memory(num_bytes)
        return tensor

    paged = filled(None, tmp_path, machine=world.machine(allocate))

    def failing(pieces):
        if paged.stats()["evictions"] == 0:
            raise torch.OutOfMemoryError("simulated")
        for piece in pieces:
            world_step = copy.copy(piece)
            paged._pager._machine.computing.submit(lambda piece=world_step: step([piece]))

    paged.update(range(len(SIZES)), failing)
    world.settle()


def test_out_of_memory_twice_is_raised_and_the_rest_can_be_done(unlimited, tmp_path):
    paged = filled(8192, tmp_path)

    def always(pieces):
        raise torch.OutOfMemoryError("simulated")

    with pytest.raises(torch.OutOfMemoryError, match="ran out again; 0 runs"):
        paged.update(range(len(SIZES)), always)
    for _ in range(5):
        paged.update(range(len(SIZES)), step)
    assert equal(paged.read(range(len(SIZES))), unlimited)


@pytest.mark.parametrize("failures", [1, 2])
def test_no_memory_for_the_frames_themselves(failures, unlimited, tmp_path):
    """Once: fewer are made. Twice: that is an error, after which it can be tried again."""
    world, calls = World(0), []

    def allocate(num_bytes):
        calls.append(num_bytes)
        if len(calls) <= failures:
            raise torch.OutOfMemoryError("simulated")
        return torch.empty(num_bytes, dtype=torch.uint8)

    paged = filled(None, tmp_path, machine=world.machine(allocate))
    if failures == 2:
        with pytest.raises(torch.OutOfMemoryError):
            paged.prepare()
    paged.prepare()
    paged.write(unlimited)
    world.settle()
    assert paged._pager.paging


def test_another_error_is_not_tried_again(tmp_path):
    def failing(pieces):
        raise RuntimeError("a mistake")

    paged = filled(8192, tmp_path)
    with pytest.raises(RuntimeError, match="a mistake"):
        paged.update([0], failing)
    assert paged.stats()["evictions"] == 0


def test_torch_refuses_memory_in_words_that_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert states_module.out_of_memory(caught.value)


def test_a_budget_too_small_is_refused(tmp_path):
    paged = PagedStates(CPU, 100, tmp_path)
    with pytest.raises(InputError, match="memory_budget should be at least 1216 bytes"):
        paged.add([(1, ARRAYS)])


def test_a_fork_is_refused(tmp_path):
    paged = filled(8192, tmp_path)
    paged.update(range(len(SIZES)), step)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            paged.update([0], step)
        except InputError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"should be used in the process that made them" in os.read(reader, 1000)
    os.close(reader), os.close(writer)
    paged.update(range(len(SIZES)), step)


def test_no_states_no_memory(tmp_path):
    stats = PagedStates(CPU, 8192, tmp_path).stats()
    assert stats["resident_bytes"] == {"device": 0, "host": 0, "file": 0}
