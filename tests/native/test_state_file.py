"""Whatever the system answers, a copy is whole or an error."""

import ctypes
import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("scripted_state_file.cpp")
FLAGS = ["-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra"]
CONTENT = bytes(range(1, 101))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("build") / "state_file.so"
    subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), CONTENT, 0)
        yield file.fileno()


def transfer(library, descriptor: int, scripts: tuple[str, str], memory, writes=False):
    """(error, how many reads waited)"""
    waits = ctypes.c_int64()
    letters = [script.encode() for script in scripts]  # alive as long as they are read
    library.follow(*letters)
    size = ctypes.c_int64(len(memory))
    error = library.transfer(descriptor, writes, memory, size, ctypes.byref(waits))
    return error, waits.value


@pytest.mark.parametrize(
    ("at_once", "waiting", "waits"),
    [
        ("", "", 0),
        ("sss", "", 0),
        ("a", "", 1),
        ("sasa", "ss", 2),
        ("0", "", 1),  # Linux 5.9 and 5.10 where they would have to wait
        ("s0", "isi", 1),
        ("o" * 9, "sss", 0),
        ("n", "", 0),
        ("p" * 9, "iis", 0),
        ("d", "", 0),
    ],
)
def test_a_read_is_whole(library, descriptor, at_once, waiting, waits):
    memory = ctypes.create_string_buffer(len(CONTENT))
    assert transfer(library, descriptor, (at_once, waiting), memory) == (0, waits)
    assert memory.raw == CONTENT


@pytest.mark.parametrize("script", ["", "s", "issis", "iiii"])
def test_a_write_is_whole(library, descriptor, script):
    memory = ctypes.create_string_buffer(CONTENT[::-1], len(CONTENT))
    assert transfer(library, descriptor, ("", script), memory, writes=True) == (0, 0)
    assert os.pread(descriptor, 101, 0) == CONTENT[::-1]


@pytest.mark.parametrize(
    ("letter", "error"), [("0", errno.EIO), ("d", errno.EIO), ("f", errno.ENOSPC)]
)
@pytest.mark.parametrize("writes", [False, True])
def test_what_fails_is_told(library, descriptor, letter, error, writes):
    """Where preadv2 fails too, the error is that of the call which may wait."""
    memory = ctypes.create_string_buffer(CONTENT, len(CONTENT))
    scripts = ("sn", "s" + letter) if writes else ("snn", "s" + letter)
    found, _ = transfer(library, descriptor, scripts, memory, writes)
    assert found == error


def test_the_end_of_the_file_is_an_error(library, descriptor):
    memory = ctypes.create_string_buffer(len(CONTENT) + 1)
    assert transfer(library, descriptor, ("", ""), memory)[0] == errno.EIO
