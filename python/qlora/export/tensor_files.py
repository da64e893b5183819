"""Safetensors files as streams: one tensor in memory at a time, in and out.

The library maps a file into memory and writes a whole dictionary at once; a checkpoint can be
larger than the memory of the machine that merges it.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from qlora_kernels.errors import InputError

INDEX_FILE, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """What a header says about a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Shard:
    """A safetensors file that is read a tensor at a time."""

    def __init__(self, path: Path) -> None:
        """Read the header; InputError for a file that is none, or has tensors of unknown types."""
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:  # its checks of offsets and sizes
                self.metadata: dict[str, str] = file.metadata() or {}
            with path.open("rb") as raw:
                length = int.from_bytes(raw.read(8), "little")
                entries = json.loads(raw.read(length))
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"safetensors: {path} should be a safetensors file: {error}") from None
        entries.pop("__metadata__", None)
        self._offsets = {n: 8 + length + e["data_offsets"][0] for n, e in entries.items()}
        self.specs = {name: self._spec(name, entry) for name, entry in entries.items()}

    def _spec(self, name: str, entry: Mapping[str, Any]) -> TensorSpec:
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise InputError(
                f"safetensors: {self.path}: {name} should be one of {known}, was {entry['dtype']}"
            )
        return TensorSpec(_DTYPES[entry["dtype"]], tuple(entry["shape"]))

    def read(self, name: str) -> torch.Tensor:
        """The tensor, in memory of its own."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        with self.path.open("rb") as file:
            file.seek(self._offsets[name])
            if tensor.numel():
                file.readinto(_bytes(tensor))
        return tensor


class ShardWriter:
    """Writes a safetensors file tensor by tensor: `add` each within a `with` block.

    Tensors are spooled by the size of their elements and put together at the end, the widest first:
    readers want every tensor aligned, and the format allows no gaps.
    """

    def __init__(self, path: Path) -> None:
        """Start the file."""
        self.path = path
        self.specs: dict[str, TensorSpec] = {}
        self._spools: dict[int, Any] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append a tensor."""
        assert name not in self.specs, name
        size = tensor.dtype.itemsize
        if size not in self._spools:
            self._spools[size] = self.path.with_suffix(f".{size}").open("w+b")
        self.specs[name] = TensorSpec(tensor.dtype, tuple(tensor.shape))
        if tensor.numel():
            self._spools[size].write(_bytes(tensor.contiguous()))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._assemble()
        for spool in self._spools.values():
            spool.close()

    def _assemble(self) -> None:
        """Write the header and put the parts behind it."""
        widest_first = sorted(self._spools, reverse=True)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for size in widest_first:
            for name, spec in self.specs.items():
                if spec.dtype.itemsize == size:
                    header[name] = {
                        "dtype": _NAMES[spec.dtype],
                        "shape": list(spec.shape),
                        "data_offsets": [end, end + spec.nbytes],
                    }
                    end += spec.nbytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with self.path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for size in widest_first:
                self._spools[size].seek(0)
                shutil.copyfileobj(self._spools[size], file, 2**20)
                self.path.with_suffix(f".{size}").unlink()


def shards_of(folder: Path) -> list[Shard]:
    """The shards of a Hugging Face folder, in order; InputError if it has no safetensors."""
    index, single = folder / INDEX_FILE, folder / SINGLE_FILE
    if index.is_file():
        try:
            files = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"safetensors: {index} should have a weight_map: {error!r}") from None
        if odd := [f for f in files if not isinstance(f, str) or Path(f).name != f]:
            raise InputError(f"safetensors: {index} should name files beside it, names {odd[0]!r}")
        return [Shard(folder / file) for file in files]
    if single.is_file():
        return [Shard(single)]
    raise InputError(
        f"safetensors: {folder} should be a model folder with {SINGLE_FILE} or {INDEX_FILE}, "
        "has neither"
    )


def index_of(files: Mapping[str, Mapping[str, TensorSpec]]) -> dict[str, Any]:
    """model.safetensors.index.json for file -> specs."""
    total = sum(spec.nbytes for specs in files.values() for spec in specs.values())
    weight_map = {name: file for file, specs in files.items() for name in specs}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _bytes(tensor: torch.Tensor) -> Any:
    """The memory of a tensor with elements, as a buffer."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
