import errno
import os
from pathlib import Path

import pytest
import torch

from qlora_kernels.errors import InputError
from qlora_kernels.optim.paging.stores import MappedFile, NamelessFile, PageFile, in_memory


def test_pages_come_back(tmp_path):
    store = PageFile(tmp_path, 1024)
    store.reserve(3)
    pages = [torch.randint(256, (n,), dtype=torch.uint8) for n in (1024, 100, 1024)]
    for number, page in enumerate(pages):
        store.write(number, page)
    for number, page in enumerate(pages):
        assert torch.equal(page, _read(store, number, page.numel()))
    store.reserve(10)
    assert torch.equal(pages[2], _read(store, 2, 1024))


def _read(store: PageFile, page: int, count: int) -> torch.Tensor:
    frame = torch.empty(count, dtype=torch.uint8)
    store.read(page, frame)
    return frame


def test_a_transfer_in_small_parts_is_whole(tmp_path, monkeypatch):
    whole_write, whole_read = os.pwritev, os.preadv
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: whole_write(fd, [views[0][:7]], at))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: whole_read(fd, [views[0][:5]], at))
    test_pages_come_back(tmp_path)


def test_a_file_that_ends_early_is_an_error(tmp_path):
    with pytest.raises(OSError, match="page 4 ends early"):
        _read(PageFile(tmp_path, 1024), 4, 10)


def test_no_file_is_seen_and_its_room_is_given_back(tmp_path):
    store = PageFile(tmp_path / "states", 1 << 20)
    store.reserve(4)
    descriptor = store._file.descriptor
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(descriptor).st_blocks * 512 >= 4 << 20
    del store
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_file_of_the_user_is_never_touched(tmp_path):
    file = tmp_path / "thesis.tex"
    file.write_text("text")
    with pytest.raises(
        InputError, match=r"page_file should be a folder or new, was the file .*tex"
    ):
        PageFile(file, 1024)
    assert file.read_text() == "text"


@pytest.mark.parametrize("place", ["/proc/states", "/nowhere/at/all/states"])
def test_a_place_that_cannot_be_written_to(place):
    with pytest.raises(InputError, match="page_file should be in a folder that can be written to"):
        PageFile(Path(place), 1024)


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    def full(descriptor, offset, count):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="should have room for 4,096 bytes of optimizer states"):
        NamelessFile(tmp_path).reserve(4096)


def test_another_failure_of_the_disk_is_itself(tmp_path, monkeypatch):
    def broken(descriptor, offset, count):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="Input/output error"):
        NamelessFile(tmp_path).reserve(4096)


def test_mapped_tensors_are_ordinary_ones(tmp_path):
    sizes = [(100, torch.uint8), (3, torch.float32), (0, torch.uint8), (5000, torch.float32)]
    make = MappedFile(tmp_path, [count * dtype.itemsize for count, dtype in sizes])
    tensors = [make(count, dtype) for count, dtype in sizes]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    del make
    assert [(t.numel(), t.dtype) for t in tensors] == sizes
    assert all(bool((t == number).all()) for number, t in enumerate(tensors))
    torch.save(tensors, tmp_path / "states.pt")
    back = torch.load(tmp_path / "states.pt")
    assert all(map(torch.equal, back, tensors))
    assert in_memory(3, torch.float32).shape == (3,)
