"""Files that are whole or absent: written under a temporary name, flushed to disk, then renamed."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qlora_kernels.errors import InputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # from fcntl.h and linux/fs.h


def write_atomically(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Let `writer(temporary)` write a file beside `path`, then rename it there; returns `path`.

    Whoever reads `path` sees the old bytes or the new ones. Parent folders are made. When `writer`
    raises, nothing is left behind. Raises InputError where the place cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"write: {path} should be a file, was a folder")
    with _place_beside(path) as folder:
        temporary = folder / path.name
        writer(temporary)
        _settle(temporary, path.parent)
        os.replace(temporary, path)
    _flush(path.parent)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def whole_folder(final: str | Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `final` when the block ends without an error.

    Raises InputError where the place cannot be written to, or where `final` is a file.
    """
    final = Path(final)
    if final.exists() and not final.is_dir():
        raise InputError(f"write: {final} should be a folder, was a file")
    with _place_beside(final) as folder:
        temporary = folder / final.name
        temporary.mkdir()
        yield temporary
        replace_folder(temporary, final)


def replace_folder(temporary: str | Path, final: str | Path) -> None:
    """Flush the folder `temporary` to disk and name it `final`; what stood there is removed.

    Both must lie on one file system. Linux exchanges the two names in one step. A file system that
    cannot (NFS) gets two renames, and a crash between them leaves the old folder as `.NAME.old`.
    """
    temporary, final = Path(temporary), Path(final)
    for path in [*temporary.rglob("*"), temporary]:
        _settle(path, final.parent)
    if not final.exists():
        os.rename(temporary, final)
    elif _exchange(temporary, final):
        shutil.rmtree(temporary)
    else:
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
        os.rename(temporary, final)
        shutil.rmtree(old)
    _flush(final.parent)


@contextmanager
def _place_beside(path: Path) -> Iterator[Path]:
    """A hidden folder on the file system of `path`; it goes away with all that is left in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"write: cannot write {path}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or the file system has no such call."""
    with suppress(AttributeError):  # no renameat2 outside glibc
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        names = os.fsencode(first), os.fsencode(second)
        return bool(renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)
    return False


def _settle(path: Path, place: Path) -> None:
    """Readable by whoever may read the place (temporary files are private), and on the disk."""
    path.chmod(place.stat().st_mode & (0o755 if path.is_dir() else 0o644))
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
