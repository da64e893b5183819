"""One trainer at a time in a run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qlora_kernels.errors import InputError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder and hold it; the system lets go of it however the process ends.

    Raises InputError where another process holds it: two would write one metrics file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"train: {folder} should have one trainer, has another") from None
        yield
    finally:
        os.close(descriptor)
