"""A quantized tensor as named plain tensors, and as a safetensors file: exact both ways."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qlora_kernels.errors import InputError
from qlora_kernels.files import write_atomically
from qlora_kernels.formats.quantized_tensor import QuantizedTensor

# config.json's quantization_config.quant_method of a model folder that holds such tensors.
QUANT_METHOD = "qlora_kernels"

_WHO = "state dict"
_Kind = TypeVar("_Kind")
_TENSORS = ("codes", "scales", "nested_absmax", "nested_offset")


def dtype_named(name: str) -> torch.dtype:
    """`"bfloat16"` -> torch.bfloat16; TypeError for anything that is no dtype."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(name)
    return dtype


def json_bytes(fields: dict[str, object]) -> torch.Tensor:
    """Small facts as a uint8 tensor of UTF-8 JSON, so that any tensor store keeps them."""
    return torch.frombuffer(bytearray(json.dumps(fields).encode()), dtype=torch.uint8)


def read_json_bytes(tensor: torch.Tensor) -> dict[str, object]:
    """The facts that `json_bytes` stored."""
    try:
        fields = json.loads(bytes(tensor.cpu().tolist()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{_WHO}: metadata should be UTF-8 JSON, was {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{_WHO}: metadata should be a JSON object, was {fields!r}")
    return fields


def fact(who: str, fields: dict[str, object], name: str, kind: Callable[[Any], _Kind]) -> _Kind:
    """`kind(fields[name])`; InputError where the field is absent or `kind` cannot take it."""
    try:
        return kind(fields[name])
    except (KeyError, TypeError, ValueError):
        wanted = _WANTED.get(kind, kind.__name__)
        raise InputError(f"{who}: {name} should be {wanted}, was {fields.get(name)!r}") from None


# What a fact should be, where the name of its kind does not say it.
_WANTED: dict[Callable[[Any], Any], str] = {torch.Size: "sizes", dtype_named: "a torch dtype"}


def to_state_dict(q: QuantizedTensor, prefix: str = "weight") -> dict[str, torch.Tensor]:
    """`prefix.codes`, `prefix.scales`, ... and `prefix.spec` (UTF-8 JSON in a uint8 tensor)."""
    spec: dict[str, object] = {
        "format": q.format,
        "block_size": q.block_size,
        "double_quant": q.double_quant,
        "shape": list(q.shape),
        "dtype": str(q.dtype).removeprefix("torch."),
    }
    tensors = {f"{prefix}.{n}": t for n in _TENSORS if (t := getattr(q, n)) is not None}
    return {**tensors, f"{prefix}.spec": json_bytes(spec)}


def from_state_dict(state: dict[str, torch.Tensor], prefix: str = "weight") -> QuantizedTensor:
    """The quantized tensor that `to_state_dict` wrote; InputError if a part is missing or lies."""
    parts = {n: state.get(f"{prefix}.{n}") for n in (*_TENSORS, "spec")}
    for name in ("codes", "scales", "spec"):
        if parts[name] is None:
            raise InputError(f"{_WHO}: should hold {prefix}.{name}, holds {sorted(state)}")
    spec = read_json_bytes(parts.pop("spec"))  # type: ignore[arg-type]
    q = QuantizedTensor(
        **parts,  # type: ignore[arg-type]
        shape=fact(_WHO, spec, "shape", torch.Size),
        dtype=fact(_WHO, spec, "dtype", dtype_named),
        format=fact(_WHO, spec, "format", str),
        block_size=fact(_WHO, spec, "block_size", int),
    )
    q.check(_WHO)
    return q


def save(q: QuantizedTensor, path: str | Path) -> None:
    """Write one quantized tensor as a safetensors file, atomically."""
    state = {name: t.contiguous() for name, t in to_state_dict(q).items()}
    write_atomically(path, lambda temporary: save_file(state, temporary))


def load(path: str | Path) -> QuantizedTensor:
    """Read what `save` wrote; InputError if the file is unreadable."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"load: {path} should be a readable safetensors file: {error}") from None
    return from_state_dict(state)
