"""States in a file: the bits of states in memory, on every instruction set; and what fails."""

import errno
import os
import tempfile
from dataclasses import fields
from typing import BinaryIO

import pytest
import torch

import qlora_kernels as qk
from native.guarded import Guarded, guarded
from native.test_adamw import DTYPES, HYPER, segment, threads
from qlora_kernels.errors import InputError
from qlora_kernels.ops.adamw import Gate, InFile, Segment, adamw_step, adamw_step_in_file
from qlora_kernels.optim.paged import state_arrays
from qlora_kernels.optim.paging import Run, run_bytes
from qlora_kernels.optim.paging.layout import Page

GATE = Gate(torch.tensor(1.0), torch.tensor(0.37), torch.tensor(0.0))
SIZES = (0, 1, 256, 257, 1000, 20_000)
UNTOUCHED = 0xA5


class Framed:
    """A segment, and its twin whose states are views of a frame."""

    def __init__(self, size: int, dtype: torch.dtype, bits: int, memory: Guarded) -> None:
        master = dtype != torch.float32
        self.plain = segment(size, dtype, bits, master, memory)
        arrays = state_arrays(bits, master)
        run = Run(0, 0, size, 0, arrays)
        self.frame = memory.empty((run_bytes(arrays, size),), torch.uint8)
        self.page = Page([run], run.num_bytes)
        ((_, views),) = self.page.views(self.frame)
        for name, view in views.items():
            view.copy_(getattr(self.plain, name))
        parameter = memory.empty((size,), dtype, offset=1).copy_(self.plain.parameter)
        self.framed = Segment(parameter, step=self.plain.step, **views)

    def is_even(self, frame: torch.Tensor) -> bool:
        """Whether the frame holds what the plain segment has come to."""
        ((_, views),) = self.page.views(frame)
        found = {"parameter": self.framed.parameter, **views}
        return all(torch.equal(getattr(self.plain, name), found[name]) for name in found)


def framed(memory: Guarded) -> list[Framed]:
    kinds = [(torch.float32, 8), (torch.float32, 32), (torch.bfloat16, 8), (torch.float16, 32)]
    return [Framed(size, *kind, memory) for size in SIZES for kind in kinds]


@pytest.mark.parametrize("room", [3072, 3 * 3072 + 40, 1 << 20], ids=["a block", "few", "many"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_bits_of_states_in_memory(isa: str, room: int, count: int):
    """Every third segment has its states in memory; frames of the others are left as they are."""
    with guarded() as memory, tempfile.TemporaryFile() as file, threads(count):
        pairs = framed(memory)
        shifts: list[int | None] = []
        places, end = [], 0
        for i, pair in enumerate(pairs):
            places.append(end)
            shifts.append(end - pair.frame.data_ptr() if i % 3 else None)
            if i % 3:
                os.pwrite(file.fileno(), bytes(pair.frame), end)
                pair.frame.fill_(UNTOUCHED)
            end += pair.frame.numel() + 16
        gradients = [
            (torch.randn(pair.plain.parameter.shape) * 1e-2).to(DTYPES[i % 3])
            for i, pair in enumerate(pairs)
        ]
        hyper = [HYPER[i % 2] for i in range(len(pairs))]
        given = InFile(file.fileno(), memory.empty((room,), torch.uint8), shifts)
        adamw_step_in_file([pair.framed for pair in pairs], gradients, hyper, GATE, given)
        adamw_step([pair.plain for pair in pairs], gradients, hyper, GATE)
        for i, pair in enumerate(pairs):
            frame = pair.frame
            if i % 3:
                assert (frame == UNTOUCHED).all()
                content = os.pread(file.fileno(), frame.numel(), places[i])
                frame = torch.tensor(list(content), dtype=torch.uint8)
            assert pair.is_even(frame), (pair.plain, i)


def stepped(descriptor: int, room: int = 1 << 16, shifts: int = 1, size: int = 70_000) -> int:
    with guarded() as memory:
        pair = Framed(size, torch.float32, 8, memory)
        shift = -pair.frame.data_ptr()
        given = InFile(descriptor, memory.empty((room,), torch.uint8), [shift] * shifts)
        return adamw_step_in_file([pair.framed], [torch.zeros(size)], [HYPER[0]], GATE, given)


def test_a_file_that_fails_is_an_error_of_the_system(tmp_path):
    with tempfile.TemporaryFile() as file:
        with pytest.raises(OSError, match="Input/output error"):
            stepped(file.fileno())  # it ends before the states do
        with pytest.raises(InputError, match="segments and shifts should be equally many"):
            stepped(file.fileno(), shifts=2)
        with pytest.raises(ValueError, match="room: should have the 544 bytes of a block, had 543"):
            stepped(file.fileno(), room=543)
        os.ftruncate(file.fileno(), 1 << 20)
        stepped(file.fileno(), room=544)
    not_to_read = (tmp_path / "states").open("xb")
    with not_to_read, pytest.raises(OSError, match="Bad file descriptor"):
        stepped(not_to_read.fileno())
    with qk.use_backend("reference"), pytest.raises(InputError, match="should run the backend cpu"):
        stepped(0)


def forgotten(file: BinaryIO) -> int:
    """The descriptor of a file of which the system was asked to keep nothing in memory."""
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file.fileno()


def would_wait(descriptor: int) -> bool:
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:  # where it is not supported, as in overlays: nothing tells
        return error.errno == errno.EAGAIN
    return False


def test_reads_from_the_disk_are_counted(tmp_path):
    """The system may keep what it was asked to forget, so there are some attempts. A read that is
    told that it would wait makes the system read on, so another file tells whether reads are."""
    with (tmp_path / "states").open("w+b") as file, (tmp_path / "other").open("w+b") as other:
        for empty in (file, other):
            empty.write(bytes(1 << 20))
            empty.flush()
        waits = blocked = 0
        for _ in range(20):
            blocked += would_wait(forgotten(other))
            waits += stepped(forgotten(file))
        if not blocked:
            pytest.skip("the temporary folder is no disk, or does not tell what waits")
        assert waits > 0
        assert stepped(file.fileno()) == 0


def test_all_fields_of_a_segment_are_compared():
    """Of those that a step changes."""
    with guarded() as memory:
        pair = Framed(300, torch.bfloat16, 8, memory)
        for field in fields(pair.plain):
            if field.name != "step":
                getattr(pair.framed, field.name).view(torch.uint8)[-1] ^= 1
                assert not pair.is_even(pair.frame), field.name
                getattr(pair.framed, field.name).view(torch.uint8)[-1] ^= 1
        assert pair.is_even(pair.frame)
