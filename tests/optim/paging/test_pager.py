"""Whatever is asked of it in whatever order, the pager keeps every page and its budget."""

import os
from random import Random

import pytest
import torch

from optim.paging.machines import World
from qlora_kernels.formats.blockwise8 import BLOCK
from qlora_kernels.optim.paging.layout import Layout, StateArray
from qlora_kernels.optim.paging.machines import machine_for
from qlora_kernels.optim.paging.pager import FRAMES, Pager

STATE = (StateArray("state", torch.uint8, initial=7),)
PAGE = 2 * (BLOCK + 16)
OPERATIONS = 100_000


class Trial:
    """A pager beside a dictionary that says what each page should hold."""

    def __init__(self, machine, budget: int | None, seed: int) -> None:
        self.random, self.machine = Random(seed), machine
        self.layout = Layout(PAGE)
        self.budget = budget
        self.pager = Pager(machine, self.layout.pages, PAGE, budget)
        self.expected: dict[int, int] = {}
        self.operations = 0
        self.copied_by_kernel = 0
        self.faults: list[str] = []

    def grow(self) -> None:
        sizes = [
            self.random.choice([16, 112, BLOCK, 1008]) for _ in range(self.random.randint(1, 3))
        ]
        self.layout.add([(size, STATE) for size in sizes])

    def shrink(self) -> None:
        self.pager.shrink()
        self.budget = min(self.budget or PAGE * FRAMES, PAGE * FRAMES)

    def sweep(self, changes: bool) -> None:
        count = len(self.layout.pages)
        wanted = self.random.sample(range(count), self.random.randint(0, count))
        seen = []
        abandoned = self.random.random() < 0.1
        for batch in self.pager.sweep(wanted, changes):
            for page, frame in batch:
                self.visit(page, frame, changes)
                seen.append(page)
            if abandoned and self.random.random() < 0.5:
                break
        else:
            assert sorted(seen) == sorted(wanted)
        assert len(seen) == len(set(seen))

    def stand(self) -> None:
        """As a kernel does: pages of the file are read and written there, by way of the room."""
        count = len(self.layout.pages)
        wanted = self.random.sample(range(count), self.random.randint(0, count))
        standing = self.pager.standing(wanted)
        if standing is None:
            return
        assert sorted(page for page, _, _ in standing.pages) == sorted(wanted)
        standing.room.fill_(0xEE)
        for page, memory, place in standing.pages:
            if place is None:
                self.visit(page, memory, True)
                continue
            size = memory.numel()
            content = torch.tensor(list(os.pread(standing.descriptor, size, place)))
            self.visit(page, content, True)
            os.pwrite(standing.descriptor, bytes(content.tolist()), place)
            self.copied_by_kernel += 1

    def visit(self, page: int, frame: torch.Tensor, changes: bool) -> None:
        before = self.expected.setdefault(page, 7)
        after = (3 * before + page + 1) % 256 if changes else before
        self.expected[page] = after
        self.operations += 1

        content = frame.numpy()  # the same memory, and quicker for so little

        def work() -> None:
            if not (content == before).all():
                self.faults.append(f"page {page} should be {before}, was {set(content)}")
            if changes:
                content[:] = after

        self.machine.computing.submit(work)

    def check(self) -> None:
        assert not self.faults
        if self.budget is not None:
            assert self.pager.resident_bytes() <= self.budget


def play(trial: Trial, operations: int, pages: int) -> None:
    actions = [trial.shrink] + [lambda: trial.sweep(True)] * 60 + [lambda: trial.sweep(False)] * 20
    actions += [trial.stand] * 20
    while trial.operations < operations:
        room = len(trial.layout.pages) < pages
        action = trial.grow if room and trial.random.random() < 0.1 else None
        (action or trial.random.choice(actions))()
        trial.check()


@pytest.mark.parametrize("budget", [FRAMES * PAGE, 6 * PAGE + 5, 20 * PAGE])
def test_lanes_in_any_order(budget):
    """10^5 visits of pages, growing, evicting and abandoned sweeps among them."""
    for seed in range(4):
        world = World(seed)
        trial = Trial(world.machine(), budget, seed)
        play(trial, OPERATIONS // 12, pages=30)
        world.settle()
        trial.check()
        assert trial.pager.counters.peak_resident_bytes <= budget
        assert trial.pager.counters.copies_in > 100


@pytest.mark.parametrize("budget", [None, 6 * PAGE])
def test_a_file_and_a_thread(budget, tmp_path):
    for seed in range(3):
        trial = Trial(machine_for(torch.device("cpu"), tmp_path), budget, seed)
        play(trial, 1000, pages=30)
        assert budget is None or trial.copied_by_kernel > 100
    assert list(tmp_path.iterdir()) == []


def test_what_fits_is_never_copied():
    world = World(0)
    trial = Trial(world.machine(), 40 * PAGE, 0)
    for _ in range(8):
        trial.grow()
    for _ in range(50):
        trial.sweep(True)
    world.settle()
    counters = trial.pager.counters
    assert (counters.copies_in, counters.copies_out, trial.pager.paging) == (0, 0, False)
    assert trial.pager.resident_bytes() == trial.layout.num_bytes


def test_each_step_copies_only_what_has_no_frame():
    """A least-recently-used order would copy every page in every sweep."""
    world = World(0)
    trial = Trial(world.machine(), 5 * PAGE, 0)
    trial.layout.add([(2 * BLOCK, STATE)] * 12)
    for _ in range(10):
        for batch in trial.pager.sweep(range(12), changes=True):
            for page, frame in batch:
                trial.visit(page, frame, True)
    world.settle()
    trial.check()
    assert trial.pager.counters.copies_in == 9 * (12 - 5)
    assert trial.pager.counters.copies_out == 10 * (12 - 5)
