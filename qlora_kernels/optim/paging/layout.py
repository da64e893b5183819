"""Where the states of each tensor lie: runs of its elements, packed into pages.

    page 0  | run: tensor 0, elements 0 ..      | run: tensor 1, .. | unused |
    page 1  | run: tensor 1, the other elements | ...

    run     | array 0 | array 1 | ... |    each array from a multiple of ALIGN bytes

A run starts at a multiple of BLOCK elements of its tensor: no block of 8-bit states is cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from qlora_kernels.errors import InputError
from qlora_kernels.formats.blockwise8 import BLOCK

ALIGN = 16  # bytes; the widest load of a kernel


@dataclass(frozen=True, slots=True)
class StateArray:
    """One state of a tensor: one value for every `elements` of its elements (1 or BLOCK)."""

    name: str
    dtype: torch.dtype
    elements: int = 1
    initial: float = 0.0

    def num_values(self, num_elements: int) -> int:
        """Values that this many elements have."""
        return -(-num_elements // self.elements)

    def num_bytes(self, num_elements: int) -> int:
        """Bytes of these values, up to where the next array may start."""
        return aligned(self.num_values(num_elements) * self.dtype.itemsize)


Arrays = tuple[StateArray, ...]


@dataclass(frozen=True)
class Run:
    """Elements start .. start + count of one tensor, whose states begin at a byte of a page."""

    tensor: int
    start: int
    count: int
    offset: int
    arrays: Arrays

    @cached_property
    def num_bytes(self) -> int:
        """Bytes in the page."""
        return run_bytes(self.arrays, self.count)


@dataclass
class Page:
    """The runs of one page and the bytes that they take."""

    runs: list[Run] = field(default_factory=list)
    num_bytes: int = 0

    def views(self, frame: Tensor) -> Iterator[tuple[Run, dict[str, Tensor]]]:
        """Each run with its states as views of the frame (uint8) that holds the page."""
        for run in self.runs:
            sizes = [array.num_bytes(run.count) for array in run.arrays]
            pieces = frame[run.offset : run.offset + run.num_bytes].split(sizes)
            yield (
                run,
                {
                    array.name: piece.view(array.dtype)[: array.num_values(run.count)]
                    for array, piece in zip(run.arrays, pieces, strict=True)
                },
            )

    def initialize(self, frame: Tensor) -> None:
        """Fill a frame with the states of tensors that have taken no step."""
        frame.zero_()
        for run, states in self.views(frame):
            for array in run.arrays:
                if array.initial:
                    states[array.name].fill_(array.initial)


class Layout:
    """Tensors, in the order in which they were added, cut into runs and packed into pages."""

    def __init__(self, page_bytes: int) -> None:
        """No tensors yet."""
        self.page_bytes = page_bytes
        self.pages: list[Page] = []
        self.pages_of: list[list[int]] = []  # tensor -> its pages

    def add(self, tensors: Sequence[tuple[int, Arrays]]) -> list[int]:
        """Give tensors (number of elements, arrays) their places; returns their numbers.

        They start on a page of their own: pages that are in use never change. Raises InputError
        where a page does not hold one block.
        """
        first = len(self.pages_of)
        page: Page | None = None
        for number, (num_elements, arrays) in enumerate(tensors, first):
            self.pages_of.append([])
            start = 0
            while start < num_elements:
                count = self._fitting(arrays, page.num_bytes if page else self.page_bytes)
                if page is None or not count:
                    page = Page()
                    self.pages.append(page)
                    count = self._fitting(arrays, 0)
                    self._check(count, arrays)
                run = Run(number, start, min(count, num_elements - start), page.num_bytes, arrays)
                page.runs.append(run)
                page.num_bytes += run.num_bytes
                self.pages_of[number].append(len(self.pages) - 1)
                start += run.count
        return list(range(first, len(self.pages_of)))

    @property
    def num_bytes(self) -> int:
        """Of all pages, as far as they are used."""
        return sum(page.num_bytes for page in self.pages)

    def _fitting(self, arrays: Arrays, used: int) -> int:
        """Elements, a multiple of BLOCK, that fit behind the used bytes of a page."""
        room = self.page_bytes - used - ALIGN * len(arrays)
        return max(0, room // block_bytes(arrays)) * BLOCK

    def _check(self, count: int, arrays: Arrays) -> None:
        if not count:
            raise InputError(
                f"paging: a page should hold {BLOCK} elements ({smallest_page(arrays)} bytes), was"
                f" {self.page_bytes} bytes"
            )


def run_bytes(arrays: Arrays, num_elements: int) -> int:
    """Bytes of the states of this many elements, side by side."""
    return sum(array.num_bytes(num_elements) for array in arrays)


def block_bytes(arrays: Arrays) -> int:
    """Bytes of one block, before aligning."""
    return sum(BLOCK // array.elements * array.dtype.itemsize for array in arrays)


def smallest_page(arrays: Arrays) -> int:
    """Bytes of the smallest page that holds a block of these states."""
    return aligned(block_bytes(arrays) + ALIGN * len(arrays))


def aligned(num_bytes: int) -> int:
    """Up to the next multiple of ALIGN."""
    return -(-num_bytes // ALIGN) * ALIGN
