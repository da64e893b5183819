"""Which page is where: frames under a budget, and the order in which pages pass through them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from qlora_kernels.errors import InputError
from qlora_kernels.optim.paging.counters import Counters
from qlora_kernels.optim.paging.lanes import Event, Lane
from qlora_kernels.optim.paging.layout import Page
from qlora_kernels.optim.paging.stores import Store

FRAMES = 4  # at least: one computes, the others are being stored, fetched, or wait their turn


@dataclass(frozen=True)
class Machine:
    """What the pager runs on."""

    computing: Lane
    fetching: Lane
    storing: Lane
    allocate: Callable[[int], Tensor]  # bytes -> uint8 memory of frames
    open_store: Callable[[int], Store]  # page bytes -> what holds the other pages


class Pager:
    """Pages in frames of at most `budget` bytes together, the others in a store.

    While all fit, each page has a frame of its own for good and nothing is copied. Otherwise a
    sweep takes the pages that have a frame first and gives each frame on as soon as its page is
    done: the next page is fetched while the pages between compute.
    """

    def __init__(self, machine: Machine, pages: list[Page], page_bytes: int, budget: int | None):
        """pages: those of a layout, which may grow. budget: bytes, None for no limit."""
        self.counters = Counters()
        self._machine, self._pages, self._page_bytes = machine, pages, page_bytes
        self._budget = budget
        self._frames: list[Tensor] = []
        self._frame_of: dict[int, int] = {}  # page -> frame
        self._free: list[int] = []  # frames without a page
        self._store: Store | None = None  # none: every page has a frame
        self._stored: dict[int, Event] = {}  # pages that the store holds: last write
        self._ready: dict[int, Event] = {}  # page -> what must be over before it is computed on
        self._changed: set[int] = set()  # pages that are newer than the store's
        self._process = os.getpid()

    @property
    def paging(self) -> bool:
        """Whether some page has no frame."""
        return self._store is not None

    def sweep(self, wanted: Iterable[int], changes: bool) -> Iterator[list[tuple[int, Tensor]]]:
        """Give every wanted page once, with its frame, for work on the computing lane.

        Several at a time only where nothing is paged. A frame is the caller's until the next. With
        `changes` its content is kept.
        """
        wanted = list(wanted)
        self.adopt()
        if self._store is None:
            yield [(page, self._frames[page]) for page in wanted]
            return
        self._check_process()
        ready = deque(page for page in wanted if page in self._frame_of)
        waiting = deque(page for page in wanted if page not in self._frame_of)
        idle = deque(self._frame_of.keys() - set(wanted))
        while waiting and (self._free or idle):
            page = waiting.popleft()
            self._fetch(page, (self._free.pop(), None) if self._free else self._evict(idle.pop()))
            ready.append(page)
        while ready:
            page = ready.popleft()
            yield [(page, self._computable(page, changes))]
            if waiting:
                ready.append(waiting.popleft())
                self._fetch(ready[-1], self._evict(page))

    def shrink(self) -> None:
        """Keep the smallest ring of frames; all else goes to the store. Waits for the copies."""
        self._check_process()
        self._budget = FRAMES * self._page_bytes
        self._move_out()
        self.counters.evictions += 1

    def resident_bytes(self) -> int:
        """Of all frames."""
        return sum(frame.numel() for frame in self._frames)

    def stored_bytes(self) -> dict[str, int]:
        """Tier -> bytes of the pages that it holds."""
        return {self._store.tier: len(self._stored) * self._page_bytes} if self._store else {}

    def adopt(self) -> None:
        """Find a place for pages that came since the last time."""
        if self._store is not None:
            self._store.reserve(len(self._pages))
            if self._widest() > self._frames[0].numel():
                self._move_out()
            return
        known = len(self._frames)
        if known == len(self._pages):
            return
        needed = sum(page.num_bytes for page in self._pages)
        if self._budget is not None and needed > self._budget:
            self._move_out()
            return
        added = self._pages[known:]
        memory = self._machine.allocate(sum(page.num_bytes for page in added))
        for page, frame in zip(added, memory.split([p.num_bytes for p in added]), strict=True):
            self._machine.computing.submit(partial(page.initialize, frame))
            self._frames.append(frame)
        self.counters.note_resident(self.resident_bytes())

    def _move_out(self) -> None:
        """All pages to the store, and as many frames as the budget allows.

        The store has room for everything before a page moves; the old frames are gone before the
        new ones come.
        """
        machine = self._machine
        if self._store is None:
            store = machine.open_store(self._page_bytes)
            store.reserve(len(self._pages))
            self._store = store
            self._frame_of = {number: number for number in range(len(self._frames))}
            self._changed = set(self._frame_of)
        for page in list(self._frame_of):
            self._evict(page)
        machine.storing.record().result()
        machine.fetching.record().result()
        self._frames, self._ready = [], {}
        count = (self._budget or FRAMES * self._page_bytes) // self._page_bytes
        count = min(count, len(self._pages))
        self._frames = list(machine.allocate(count * self._widest()).split(self._widest()))
        self._free = list(range(count))
        self.counters.note_resident(self.resident_bytes())

    def _widest(self) -> int:
        return max(page.num_bytes for page in self._pages)

    def _fetch(self, page: int, place: tuple[int, Event | None]) -> None:
        """Begin to bring a page into a frame, once the frame's event is over."""
        frame, after = place
        self._frame_of[page] = frame
        fetching, store = self._machine.fetching, self._store
        if page in self._stored and store is not None:
            for event in (after, self._stored[page]):
                if event is not None:
                    fetching.wait(event)
            fetching.submit(partial(store.read, page, self._used(page)))
            self._ready[page] = fetching.record()
            self.counters.copies_in += 1
        elif after is not None:
            self._ready[page] = after

    def _evict(self, page: int) -> tuple[int, Event]:
        """Take a page's frame; what comes into it must wait for the event."""
        computing, storing, store = self._machine.computing, self._machine.storing, self._store
        after = self._ready.pop(page, None) or computing.record()
        source = self._used(page)
        frame = self._frame_of.pop(page)
        if page in self._changed and store is not None:
            self._changed.remove(page)
            storing.wait(after)
            storing.submit(partial(store.write, page, source))
            after = self._stored[page] = storing.record()
            self.counters.copies_out += 1
        return frame, after

    def _computable(self, page: int, changes: bool) -> Tensor:
        """The page's frame, its content there."""
        event = self._ready.pop(page, None)
        if event is not None:
            self.counters.stalls += not event.done()
            self._machine.computing.wait(event)
        frame = self._used(page)
        if page not in self._stored and page not in self._changed:
            self._machine.computing.submit(partial(self._pages[page].initialize, frame))
        if changes:
            self._changed.add(page)
        return frame

    def _used(self, page: int) -> Tensor:
        """The part of a page's frame that the page fills."""
        return self._frames[self._frame_of[page]][: self._pages[page].num_bytes]

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InputError(
                f"AdamW: paged states should be used in the process that made them"
                f" ({self._process}), were used in its fork {os.getpid()}"
            )
