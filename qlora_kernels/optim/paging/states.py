"""The states of many tensors in pages: all that an optimizer sees of paging."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.errors import InputError
from qlora_kernels.ops.adamw import InFile
from qlora_kernels.optim.paging.layout import ALIGN, Arrays, Layout, Run, smallest_page
from qlora_kernels.optim.paging.machines import machine_for
from qlora_kernels.optim.paging.pager import FRAMES, Machine, Pager, Standing
from qlora_kernels.optim.paging.stores import MappedFile, in_memory

PAGE_BYTES = 2 << 20

States = dict[str, Tensor]
Piece = tuple[Run, States]
Work = Callable[[list[Piece]], object]
WorkInFile = Callable[[list[Piece], InFile], int]


class PagedStates:
    """States by tensor number, in pages of min(2 MiB, budget / 4) bytes."""

    def __init__(
        self,
        device: torch.device,
        memory_budget: int | None = None,
        page_file: Path | None = None,
        machine: Machine | None = None,
    ) -> None:
        """memory_budget: bytes of all frames, None for no limit. machine: None for the device's.

        `before_move` may be set to what drops all views of pages before their frames are given up.

        Raises InputError where nothing can be paged on the device. No memory is taken and no file
        made before a tensor needs it.
        """
        page_bytes = min(PAGE_BYTES, (memory_budget or PAGE_BYTES * FRAMES) // FRAMES)
        self._layout = Layout(page_bytes // ALIGN * ALIGN)
        self.before_move: Callable[[], object] = lambda: None
        self._pieces: dict[int, list[Piece]] = {}  # page -> its runs, as long as frames stay
        self._tensors: list[tuple[int, Arrays]] = []
        self._page_file = page_file
        self._pager = Pager(
            machine or machine_for(device, page_file),
            self._layout.pages,
            self._layout.page_bytes,
            memory_budget,
            before_move=self._forget,
        )

    def add(self, tensors: Sequence[tuple[int, Arrays]]) -> list[int]:
        """Places for tensors (elements, arrays); returns their numbers.

        Raises InputError where a page would not hold 256 elements.
        """
        smallest = smallest_budget(arrays for _, arrays in tensors)
        if smallest > self._layout.page_bytes * FRAMES:
            raise InputError(
                f"AdamW: memory_budget should be at least {smallest} bytes, four pages of 256"
                f" elements, was {self._layout.page_bytes * FRAMES}"
            )
        self._tensors += tensors
        return self._layout.add(tensors)

    def prepare(self) -> None:
        """Take the memory, and the room on the disk, for all tensors: what may be refused."""
        try:
            self._pager.adopt()
            return
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        self._pager.shrink()

    def update(
        self, numbers: Collection[int], work: Work, work_in_file: WorkInFile | None = None
    ) -> None:
        """Call `work` with the states of these tensors, a few runs at a time, each run once.

        `work` changes them in place, all that it was given or, where it raises, nothing. When
        memory runs out in it, frames are given up and it is called once more with what is left.
        `work_in_file` takes them all at once, some of them in a file, and returns how often it
        waited: it is called in its stead where that can be.

        Raises torch.OutOfMemoryError when memory runs out again: some runs are updated then. After
        an OSError of `work_in_file` every other call raises it again.
        """
        done: set[int] = set()
        try:
            self._sweep(numbers, (work, work_in_file), done)
            return
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Only now does nothing of the failed call hold on to a frame any more.
        self._pager.shrink()
        try:
            self._sweep(numbers, (work, work_in_file), done)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                "AdamW: a step should find memory once its pages have left the device, ran out "
                f"again; {len(done)} runs of states were updated and the others were not, so go on "
                "from a checkpoint"
            ) from error

    def make_room(self) -> None:
        """Give up all frames but the smallest ring, for memory that is needed elsewhere."""
        self._pager.shrink()

    def read(self, numbers: Collection[int]) -> dict[int, States]:
        """Copies of whole states, on the CPU; while pages are in use, mapped from a file.

        So they take no memory that the system could not take back.
        """
        self._pager.adopt()
        shapes = [
            (number, array.name, array.num_values(self._tensors[number][0]), array.dtype)
            for number in numbers
            for array in self._tensors[number][1]
        ]
        make: Callable[[int, torch.dtype], Tensor] = in_memory
        if self._pager.paging:
            make = MappedFile(
                self._page_file, [count * dtype.itemsize for *_, count, dtype in shapes]
            )
        wanted: dict[int, States] = {number: {} for number in numbers}
        for number, name, count, dtype in shapes:
            wanted[number][name] = make(count, dtype)
        for run, states in self._each(numbers, changes=False):
            for target, source in _parts(run, wanted[run.tensor], states):
                target.copy_(source)
        return wanted

    def write(self, values: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over whole states, of the sizes and dtypes that `read` gives."""
        for run, states in self._each(values, changes=True):
            for source, target in _parts(run, values[run.tensor], states):
                target.copy_(source)

    def stats(self) -> dict[str, Any]:
        """Bytes by tier, their peak, and what was copied."""
        pager, counters = self._pager, self._pager.counters
        tiers = {"device": pager.resident_bytes(), "host": 0, "file": 0, **pager.stored_bytes()}
        return {
            "state_bytes": self._layout.num_bytes,
            "page_bytes": self._layout.page_bytes,
            "pages": len(self._layout.pages),
            "resident_bytes": tiers,
            "peak_resident_bytes": counters.peak_resident_bytes,
            "copies": counters.copies_in + counters.copies_out,
            "copies_in": counters.copies_in,
            "copies_out": counters.copies_out,
            "stalls": counters.stalls,
            "evictions": counters.evictions,
        }

    def _sweep(
        self, numbers: Collection[int], works: tuple[Work, WorkInFile | None], done: set[int]
    ) -> None:
        work, work_in_file = works
        wanted = set(numbers)
        pages = [page for page in self._pages_of(wanted) if page not in done]
        standing = self._pager.standing(pages) if work_in_file else None
        if work_in_file and standing:
            self._update_in_file(standing, wanted, work_in_file)
            return
        for batch in self._pager.sweep(pages, changes=True):
            work(self._wanted(batch, wanted))
            done.update(page for page, _ in batch)

    def _update_in_file(self, standing: Standing, wanted: set[int], work: WorkInFile) -> None:
        pieces: list[Piece] = []
        shifts: list[int | None] = []
        for page, memory, place in standing.pages:
            added = self._wanted([(page, memory)], wanted)
            shift = None if place is None else place - memory.data_ptr()
            pieces += added
            shifts += [shift] * len(added)
        try:
            waits = work(pieces, InFile(standing.descriptor, standing.room, shifts))
        except OSError as error:
            self._pager.fail(error)
            raise
        in_file = sum(place is not None for _, _, place in standing.pages)
        self._pager.counters.note_in_file(in_file, waits)

    def _each(self, numbers: Collection[int], changes: bool) -> Iterator[Piece]:
        wanted = set(numbers)
        for batch in self._pager.sweep(self._pages_of(wanted), changes):
            yield from self._wanted(batch, wanted)

    def _wanted(self, batch: list[tuple[int, Tensor]], numbers: set[int]) -> list[Piece]:
        """The runs of these tensors; a page is always in the same frame until all frames move."""
        pieces = []
        for page, frame in batch:
            if page not in self._pieces:
                self._pieces[page] = list(self._layout.pages[page].views(frame))
            pieces += [piece for piece in self._pieces[page] if piece[0].tensor in numbers]
        return pieces

    def _forget(self) -> None:
        self._pieces.clear()
        self.before_move()

    def _pages_of(self, numbers: set[int]) -> list[int]:
        return sorted({page for number in numbers for page in self._layout.pages_of[number]})


def smallest_budget(tensors: Iterable[Arrays]) -> int:
    """Bytes of the fewest and smallest frames that these states can pass through."""
    return FRAMES * max(map(smallest_page, tensors), default=0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator refused: torch gives the CPU's refusal no type of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate" in str(
        error
    )


def _parts(
    run: Run, whole: Mapping[str, Tensor], part: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the run covers of a tensor's whole states, beside the run's own."""
    for array in run.arrays:
        first = run.start // array.elements
        yield whole[array.name][first : first + array.num_values(run.count)], part[array.name]
