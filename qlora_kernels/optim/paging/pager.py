"""Which page is where: frames under a budget, and the order in which pages pass through them."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
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


@dataclass(frozen=True)
class Standing:
    """Pages where they are: (page, its frame, None), or of those in the file (page, the memory
    where it would be, its place in the file). `room` is for what is copied of them."""

    pages: list[tuple[int, Tensor, int | None]]
    descriptor: int
    room: Tensor


class Pager:
    """Pages in frames of at most `budget` bytes together, the others in a store.

    While all fit, each page has a frame of its own for good and nothing is copied. Otherwise each
    frame serves its share of the pages, one at a time. A sweep takes the page that a frame holds
    first; when that is done, it is stored and the frame's next is fetched, while the pages of the
    other frames compute. So a sweep copies no more than what has no frame.

    Over a file that kernels may read, one frame is their room instead, and `standing` says where
    pages are: those in frames stay, of the others a kernel copies what it works on.
    """

    def __init__(
        self,
        machine: Machine,
        pages: list[Page],
        page_bytes: int,
        budget: int | None,
        before_move: Callable[[], object] = lambda: None,
    ) -> None:
        """pages: those of a layout, which may grow. budget: bytes, None for no limit.

        before_move: called when all frames are given up, to drop views of them.
        """
        self.counters = Counters()
        self._machine, self._pages, self._page_bytes = machine, pages, page_bytes
        self._budget, self._before_move = budget, before_move
        self._frames: list[Tensor] = []
        self._room: Tensor | None = None  # beside the frames, where kernels may read the store
        self._held: list[int | None] = []  # frame -> its page
        self._store: Store | None = None  # none: every page has a frame
        self._stored: dict[int, Event] = {}  # pages that the store holds: last write
        self._ready: dict[int, Event] = {}  # page -> what must be over before it is computed on
        self._changed: set[int] = set()  # pages that are newer than the store's
        self._process = os.getpid()
        self._failure: OSError | None = None

    @property
    def paging(self) -> bool:
        """Whether some page has no frame."""
        return self._store is not None

    def sweep(self, wanted: Iterable[int], changes: bool) -> Iterator[list[tuple[int, Tensor]]]:
        """Give every wanted page once, with its frame, for work on the computing lane.

        Several at a time only where nothing is paged. A frame is the caller's until the next. With
        `changes` its content is kept.
        """
        self.adopt()
        if self._store is None:
            yield [(page, self._frames[page]) for page in wanted]
            return
        self._check_usable()
        ready: deque[int] = deque()
        waiting: list[deque[int]] = [deque() for _ in self._frames]
        for page in wanted:
            (ready if self._holds(page) else waiting[self._frame(page)]).append(page)
        for frame in {*range(len(waiting))} - {self._frame(page) for page in ready}:
            if waiting[frame]:
                ready.append(self._fetch(waiting[frame].popleft()))
        while ready:
            page = ready.popleft()
            yield [(page, self._computable(page, changes))]
            if next_pages := waiting[self._frame(page)]:
                ready.append(self._fetch(next_pages.popleft()))

    def standing(self, wanted: Collection[int]) -> Standing | None:
        """Where the wanted pages are, for a kernel that changes them there; None: sweep instead.

        That is while nothing is paged, where the store is no file, and for pages without content.
        """
        self.adopt()
        if self._store is None or self._room is None or self._store.descriptor is None:
            return None
        self._check_usable()
        if not all(page in self._stored or page in self._changed for page in wanted):
            return None
        for page in wanted:
            if self._held[self._frame(page)] is None:
                self._fetch(page)
        pages: list[tuple[int, Tensor, int | None]] = []
        for page in wanted:
            if self._holds(page):
                pages.append((page, self._computable(page, changes=True), None))
            else:
                self._stored[page].result()
                pages.append((page, self._used(page), page * self._page_bytes))
        return Standing(pages, self._store.descriptor, self._room)

    def fail(self, error: OSError) -> None:
        """The file failed a kernel: what pages hold is unknown, and nothing may use them again."""
        self._failure = error

    def adopt(self) -> None:
        """Find a place for pages that came since the last time."""
        if self._store is not None:
            self._store.reserve(len(self._pages))
            if not self._frames or self._widest() > self._frames[0].numel():
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

    def shrink(self) -> None:
        """Keep the smallest ring of frames; all else goes to the store. Waits for the copies."""
        self._check_usable()
        self._budget = FRAMES * self._page_bytes
        self._move_out()
        self.counters.evictions += 1

    def resident_bytes(self) -> int:
        """Of all frames, and the room."""
        room = 0 if self._room is None else self._room.numel()
        return room + sum(frame.numel() for frame in self._frames)

    def stored_bytes(self) -> dict[str, int]:
        """Tier -> bytes of the pages that it holds."""
        return {self._store.tier: len(self._stored) * self._page_bytes} if self._store else {}

    def _move_out(self) -> None:
        """All pages to the store, and as many frames as the budget allows.

        The store has room for everything before a page moves; the old frames are gone before the
        new ones come.
        """
        machine = self._machine
        store = self._store
        if store is None:
            store = machine.open_store(self._page_bytes)
            store.reserve(len(self._pages))
            self._store = store
            self._held = list(range(len(self._frames)))
            self._changed = set(range(len(self._frames)))
        for frame in range(len(self._frames)):
            self._evict(frame)
        machine.storing.record().result()
        machine.fetching.record().result()
        self._before_move()
        self._frames, self._room, self._held, self._ready = [], None, [], {}
        has_room = store.descriptor is not None
        count = (self._budget or FRAMES * self._page_bytes) // self._page_bytes
        count = min(count, len(self._pages) + has_room)
        frames = list(machine.allocate(count * self._widest()).split(self._widest()))
        self._room = frames.pop() if has_room else None
        self._frames, self._held = frames, [None] * len(frames)
        self.counters.note_resident(self.resident_bytes())

    def _fetch(self, page: int) -> int:
        """Begin to bring a page into its frame; returns the page."""
        fetching, store = self._machine.fetching, self._store
        frame = self._frame(page)
        after = self._evict(frame)
        self._held[frame] = page
        if page in self._stored and store is not None:
            fetching.wait(after)
            fetching.wait(self._stored[page])
            fetching.submit(partial(store.read, page, self._used(page)))
            after = fetching.record()
            self.counters.copies_in += 1
        self._ready[page] = after
        return page

    def _evict(self, frame: int) -> Event:
        """Empty a frame; what comes into it must wait for the event."""
        computing, storing, store = self._machine.computing, self._machine.storing, self._store
        page = self._held[frame]
        if page is None:
            return computing.record()
        after = self._ready.pop(page, None) or computing.record()
        if page in self._changed and store is not None:
            self._changed.remove(page)
            storing.wait(after)
            storing.submit(partial(store.write, page, self._used(page)))
            after = self._stored[page] = storing.record()
            self.counters.copies_out += 1
        self._held[frame] = None
        return after

    def _computable(self, page: int, changes: bool) -> Tensor:
        """The page's frame, its content there."""
        event = self._ready.get(page)
        if event is not None:
            self.counters.stalls += not event.done()
            self._machine.computing.wait(event)
            del self._ready[page]  # not before: where the wait raises, so will the next
        used = self._used(page)
        if page not in self._stored and page not in self._changed:
            self._machine.computing.submit(partial(self._pages[page].initialize, used))
        if changes:
            self._changed.add(page)
        return used

    def _used(self, page: int) -> Tensor:
        """The part of its frame that a page fills."""
        return self._frames[self._frame(page)][: self._pages[page].num_bytes]

    def _frame(self, page: int) -> int:
        """Always the same for a page, so that views of it can be kept."""
        return page % len(self._frames)

    def _holds(self, page: int) -> bool:
        return self._held[self._frame(page)] == page

    def _widest(self) -> int:
        return max(page.num_bytes for page in self._pages)

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if os.getpid() != self._process:
            raise InputError(
                f"AdamW: paged states should be used in the process that made them"
                f" ({self._process}), were used in its fork {os.getpid()}"
            )
