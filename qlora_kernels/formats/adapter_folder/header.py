"""The header of a safetensors file, read and checked before a byte of its tensors is.

    8 bytes   length of the header, little-endian
    header    JSON: name -> {"dtype", "shape", "data_offsets"}, and "__metadata__": texts
    the rest  the tensors' bytes

The safetensors library refuses overlaps, holes and shapes that disagree with their bytes; it takes
the last of two equal keys without a word, and tensors of no elements with any shape.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from qlora_kernels.errors import InputError

MAX_HEADER_BYTES = 2**26
MAX_NAME = 256
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Header:
    """Name -> shape of every tensor, and the metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Check that the file can hold an adapter, and say what is in it.

    Raises InputError for a file that is no safetensors file or larger than this machine's memory,
    two tensors of one name, tensors that are empty or no floats, and names that are not plain.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("not a file")
        size = path.stat().st_size
        if size > memory:
            raise ValueError(f"{size} bytes are more than this machine's memory of {memory}")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise ValueError("the header does not fit")
            fields = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
        with safe_open(path, framework="pt"):
            pass  # its own checks: offsets, sizes, dtypes
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"adapter: {path} should be a readable safetensors file: {reason}"
        ) from None
    metadata = fields.pop("__metadata__", {})
    for name, entry in fields.items():
        _check_entry(path, name, entry)
    return Header({name: tuple(entry["shape"]) for name, entry in fields.items()}, metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:80]!r} stands twice")
        found[name] = value
    return found


def _check_entry(path: Path, name: str, entry: Any) -> None:
    if not name.isprintable() or len(name) > MAX_NAME:
        raise InputError(f"adapter: {path} should have plain tensor names, has {name[:80]!r}")
    if entry["dtype"] not in _FLOATS:
        floats = ", ".join(_FLOATS)
        raise InputError(f"adapter: {path}: {name} should be {floats}, was {entry['dtype']}")
    if 0 in entry["shape"]:
        raise InputError(f"adapter: {path}: {name} should not be empty, was {entry['shape']}")
