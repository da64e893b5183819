"""A machine whose lanes run late and in any order that their events allow: the worst of GPUs."""

from random import Random

import torch

from qlora_kernels.optim.paging.pager import Machine
from qlora_kernels.optim.paging.stores import HostPages


class LateEvent:
    def __init__(self, lane, position):
        self.lane, self.position = lane, position

    def done(self):
        return self.lane.done >= self.position

    def result(self):
        while not self.done():
            self.lane.world.advance()


class LateLane:
    def __init__(self, world):
        self.world, self.queue, self.done = world, [], 0
        world.lanes.append(self)

    def submit(self, work):
        self.queue.append(work)

    def record(self):
        return LateEvent(self, self.done + len(self.queue))

    def wait(self, event):
        self.queue.append(event)

    def able(self):
        return self.queue and (not isinstance(self.queue[0], LateEvent) or self.queue[0].done())

    def advance(self):
        work = self.queue.pop(0)
        if not isinstance(work, LateEvent):
            work()
        self.done += 1


class World:
    def __init__(self, seed):
        self.random, self.lanes, self.allocated = Random(seed), [], []

    def advance(self):
        """One piece of work of one lane that can go on."""
        able = [lane for lane in self.lanes if lane.able()]
        assert able, "the lanes wait for each other"
        self.random.choice(able).advance()

    def settle(self):
        while any(lane.queue for lane in self.lanes):
            self.advance()

    def machine(self, allocate=None) -> Machine:
        def poisoned(num_bytes):
            return torch.full((num_bytes,), 0xA5, dtype=torch.uint8)

        computing, fetching, storing = (LateLane(self) for _ in range(3))
        return Machine(
            computing=computing,
            fetching=fetching,
            storing=storing,
            allocate=allocate or poisoned,
            open_store=lambda page_bytes: HostPages(page_bytes, pinned=False),
        )
