"""Pages on an NVIDIA GPU: two copy streams beside the stream that computes.

Over pinned host memory all work is put on streams at once and the host waits for nothing. Over a
file the copies run in a thread, which waits for the GPU and the disk in the host's stead. The order
of the work is the pager's, tested with lanes that run late; not measured on a GPU.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from qlora_kernels.optim.paging.lanes import Event, ThreadLane, Work
from qlora_kernels.optim.paging.pager import Machine
from qlora_kernels.optim.paging.stores import HostPages, PageFile, Store


def cuda_machine(device: torch.device, page_file: Path | None) -> Machine:
    """Frames on the device; the other pages in pinned memory, or in a file where one is named."""
    allocate = partial(_allocate, device)
    if page_file is None:
        return Machine(
            computing=StreamLane(device),
            fetching=StreamLane(device, torch.cuda.Stream(device)),
            storing=StreamLane(device, torch.cuda.Stream(device)),
            allocate=allocate,
            open_store=HostPages,
        )
    copying = ThreadLane("qlora-paging")
    return Machine(
        computing=StreamLane(device),
        fetching=copying,
        storing=copying,
        allocate=allocate,
        open_store=partial(StagedFile, device, page_file),
    )


class StreamEvent:
    """A point of a stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """Now."""
        self.point = torch.cuda.Event()
        self.point.record(stream)

    def done(self) -> bool:
        """Whether the GPU has come past it."""
        return bool(self.point.query())

    def result(self) -> None:
        """Block the host."""
        self.point.synchronize()


class StreamLane:
    """A stream of its own, or the one that is current when the work comes."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        """stream: None for the current one."""
        self._device, self._own = device, stream

    @property
    def _stream(self) -> torch.cuda.Stream:
        return self._own or torch.cuda.current_stream(self._device)

    def submit(self, work: Work) -> None:
        """Enqueue what the work launches."""
        with torch.cuda.stream(self._stream):
            work()

    def record(self) -> Event:
        """An event behind all that is enqueued."""
        return StreamEvent(self._stream)

    def wait(self, event: Event) -> None:
        """The stream waits; the host only where the event is that of a thread."""
        if isinstance(event, StreamEvent):
            self._stream.wait_event(event.point)
        else:
            event.result()


class StagedFile:
    """A page file whose pages pass through one pinned buffer; used by a thread alone."""

    tier = PageFile.tier
    descriptor: int | None = None

    def __init__(self, device: torch.device, place: Path, page_bytes: int) -> None:
        """place: as for PageFile."""
        self._file: Store = PageFile(place, page_bytes)
        self._stream = torch.cuda.Stream(device)
        self._staging = torch.empty(page_bytes, dtype=torch.uint8, pin_memory=True)

    def reserve(self, num_pages: int) -> None:
        """Take the room on the disk."""
        self._file.reserve(num_pages)

    def read(self, page: int, frame: Tensor) -> None:
        """Over when the frame is filled."""
        staging = self._staging[: frame.numel()]
        self._file.read(page, staging)
        self._copy(frame, staging)

    def write(self, page: int, frame: Tensor) -> None:
        """Over when the file has it."""
        staging = self._staging[: frame.numel()]
        self._copy(staging, frame)
        self._file.write(page, staging)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        self._stream.synchronize()


def _allocate(device: torch.device, num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)
