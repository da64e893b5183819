"""Where the pages are that have no frame: each store holds any page of an optimizer."""

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from qlora_kernels.errors import InputError
from qlora_kernels.optim.paging.layout import aligned


class Store(Protocol):
    """Pages by number, all of `page_bytes`."""

    tier: str
    descriptor: int | None  # of the file whose pages kernels may read and write by themselves

    def reserve(self, num_pages: int) -> None:
        """Make sure that this many pages have a place; InputError before any state is lost."""

    def read(self, page: int, frame: Tensor) -> None:
        """Copy a page that was written into a frame (uint8)."""

    def write(self, page: int, frame: Tensor) -> None:
        """Copy a frame."""


class NamelessFile:
    """A file that is in no listing: whatever ends the process, the system takes it back."""

    def __init__(self, place: Path | None) -> None:
        """place: a folder, the path of a file that does not exist, or None for the temporary one.

        Raises InputError where no file can be made.
        """
        self.folder = _folder(place)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                self.descriptor = os.dup(file.fileno())
        except OSError as error:
            raise InputError(
                "AdamW: page_file should be in a folder that can be written to, was"
                f" {self.folder} ({error.strerror})"
            ) from error
        weakref.finalize(self, os.close, self.descriptor)

    def reserve(self, num_bytes: int) -> None:
        """Take the room on the disk now: a write never finds the disk full."""
        try:
            os.posix_fallocate(self.descriptor, 0, max(1, num_bytes))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise InputError(
                f"AdamW: {self.folder} should have room for {num_bytes:,} bytes of optimizer"
                f" states, has not ({error.strerror}; page_file names another place)"
            ) from error


class PageFile:
    """A nameless file of pages.

    They are read and written at explicit offsets rather than through a mapping: the frames are
    then all that the process keeps in memory, a copy takes no page faults, and a failing disk is an
    error here instead of a signal inside a kernel.
    """

    tier = "file"

    def __init__(self, place: Path | None, page_bytes: int) -> None:
        """place: as for NamelessFile."""
        self._page_bytes, self._reserved = page_bytes, 0
        self._file = NamelessFile(place)
        self.descriptor: int | None = self._file.descriptor

    def reserve(self, num_pages: int) -> None:
        """Take the room on the disk."""
        if num_pages > self._reserved:
            self._file.reserve(num_pages * self._page_bytes)
            self._reserved = num_pages

    def read(self, page: int, frame: Tensor) -> None:
        """From the file."""
        self._whole(os.preadv, page, frame)

    def write(self, page: int, frame: Tensor) -> None:
        """To the file, or to what the system keeps of it in memory."""
        self._whole(os.pwritev, page, frame)

    def _whole(self, transfer: "_Transfer", page: int, frame: Tensor) -> None:
        """The system may copy less than it was asked for."""
        bytes_left = memoryview(frame.numpy().data)
        position = page * self._page_bytes
        while bytes_left:
            count = transfer(self._file.descriptor, [bytes_left], position)
            if not count:
                raise OSError(errno.EIO, f"page {page} ends early", str(self._file.folder))
            bytes_left = bytes_left[count:]
            position += count


class _Transfer(Protocol):
    def __call__(self, descriptor: int, buffers: list[memoryview], offset: int, /) -> int: ...


class HostPages:
    """Memory of the host, pinned, so that a GPU copies to and from it by itself."""

    tier = "host"
    descriptor: int | None = None

    def __init__(self, page_bytes: int, pinned: bool = True) -> None:
        """No pages yet."""
        self._page_bytes = page_bytes
        self._pinned = pinned
        self._pages: list[Tensor] = []

    def reserve(self, num_pages: int) -> None:
        """Allocate what is missing."""
        missing = num_pages - len(self._pages)
        if missing > 0:
            shape = (missing, self._page_bytes)
            self._pages += torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned).unbind()

    def read(self, page: int, frame: Tensor) -> None:
        """On the current stream."""
        frame.copy_(self._pages[page][: frame.numel()], non_blocking=True)

    def write(self, page: int, frame: Tensor) -> None:
        """On the current stream."""
        self._pages[page][: frame.numel()].copy_(frame, non_blocking=True)


class MappedFile:
    """Tensors one after the other in a nameless file, mapped: the system may write them out."""

    def __init__(self, place: Path | None, sizes: Iterable[int]) -> None:
        """sizes: bytes of each tensor that will be asked for."""
        file = NamelessFile(place)
        num_bytes = max(1, sum(map(aligned, sizes)))
        file.reserve(num_bytes)
        self._memory = mmap.mmap(file.descriptor, num_bytes)
        self._next = 0

    def __call__(self, count: int, dtype: torch.dtype) -> Tensor:
        """The next tensor, a storage of its own, as torch.save wants it."""
        if not count:
            return torch.empty(0, dtype=dtype)
        offset = self._next
        self._next += aligned(count * dtype.itemsize)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset)


def in_memory(count: int, dtype: torch.dtype) -> Tensor:
    """The same where nothing is paged."""
    return torch.empty(count, dtype=dtype)


def _folder(place: Path | None) -> Path:
    if place is None:
        return Path(tempfile.gettempdir())
    if place.is_dir():
        return place
    if place.exists():
        raise InputError(f"AdamW: page_file should be a folder or new, was the file {place}")
    return place.parent
