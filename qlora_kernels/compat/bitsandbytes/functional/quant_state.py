"""What a packed weight needs beside its codes to be read again."""

from collections.abc import Mapping
from typing import Any

import torch

from qlora_kernels.compat.bitsandbytes.errors import MissingKeyError, StateError
from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import NESTED_BLOCK_SIZE, dynamic_map
from qlora_kernels.formats.state_dict import dtype_named, json_bytes, read_json_bytes

_PACKED = "bitsandbytes__"
_TYPES = ("fp4", "nf4")


class QuantState:
    """`value = code[index] * absmax[i // blocksize]` of one tensor, without the indices.

    absmax: float32 [blocks]; or uint8 [blocks] when `nested`, then
    `state2.code[absmax] * state2.absmax[i // state2.blocksize] + offset`. code: float32, the value
    of each index. dtype and shape are the original tensor's; quant_type is "nf4" or "fp4", and None
    for 8-bit codes.
    """

    valid_quant_types = _TYPES
    valid_qs_type_keys = tuple(f"{_PACKED}{name}" for name in _TYPES)
    valid_qs_keys = (
        "absmax",
        "quant_map",
        "nested_absmax",
        "nested_quant_map",
        "quant_state",
        "quant_type",
        "blocksize",
        "dtype",
        "shape",
        "nested_blocksize",
        "nested_dtype",
        "nested_offset",
    )

    def __init__(
        self,
        absmax: torch.Tensor,
        shape: torch.Size | None = None,
        code: torch.Tensor | None = None,
        blocksize: int | None = None,
        quant_type: str | None = None,
        dtype: torch.dtype | None = None,
        offset: torch.Tensor | None = None,
        state2: "QuantState | None" = None,
    ) -> None:
        """All parts are kept as they are."""
        self.absmax = absmax
        self.shape = shape
        self.code = code
        self.dtype = dtype
        self.blocksize = blocksize
        self.quant_type = quant_type
        self.offset = offset
        self.state2 = state2
        self.nested = state2 is not None
        # Kernels decode the absmax themselves if it was compressed in the usual way.
        self.compressed_as_usual = state2 is not None and _is_usual(state2)

    def __getattr__(self, name: str) -> Any:
        """The packed facts by their key: FSDP reads a state dict's keys as paths of attributes."""
        if name.startswith(_PACKED):
            packed = self.as_dict(packed=True)
            if f"quant_state.{name}" in packed:
                return packed[f"quant_state.{name}"]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getitem__(self, index: int) -> Any:
        """The parts in the order of the list that stood for a state once."""
        nested = [self.offset, self.state2] if self.nested else None
        parts = [self.absmax, self.shape, self.dtype, self.blocksize, nested, self.quant_type]
        return parts[index]

    @classmethod
    def from_dict(
        cls, qs_dict: Mapping[str, Any], device: torch.device | str | None
    ) -> "QuantState":
        """What `as_dict` took apart, packed or not, keys with or without a prefix; on `device`.

        Raises ValueError without a quant_type and for facts that are not one tensor; KeyError for
        another missing part; AssertionError for an unknown key. Each is an InputError.
        """
        fields = {name.split(".")[-1]: value for name, value in _unpacked(qs_dict).items()}
        unknown = fields.keys() - set(cls.valid_qs_keys)
        missing = {"absmax", "quant_map", "quant_type", "blocksize", "dtype"} - fields.keys()
        if unknown or missing:
            wrong = f"misses {sorted(missing)}" if missing else f"holds {sorted(unknown)}"
            kind = _kind_of_error(missing)
            raise kind(f"QuantState: the dict should hold {', '.join(cls.valid_qs_keys)}, {wrong}")
        offset = state2 = None
        if "nested_absmax" in fields:
            offset = torch.tensor(float(fields["nested_offset"])).to(device)
            state2 = cls(
                absmax=fields["nested_absmax"].to(device),
                blocksize=fields["nested_blocksize"],
                code=fields["nested_quant_map"].to(device),
                dtype=dtype_named(fields["nested_dtype"]),
            )
        shape = fields.get("shape")
        return cls(
            absmax=fields["absmax"].to(device),
            shape=None if shape is None else torch.Size(shape),
            code=fields["quant_map"].to(device),
            blocksize=fields["blocksize"],
            quant_type=fields["quant_type"],
            dtype=dtype_named(fields["dtype"]),
            offset=offset,
            state2=state2,
        )

    def as_dict(self, packed: bool = False) -> dict[str, Any]:
        """All parts by name; packed: tensors only, small facts as UTF-8 JSON in a uint8 tensor.

        Packed, the names are those of `Linear4bit.state_dict()` behind "weight.".
        """
        fields: dict[str, Any] = {
            "quant_type": self.quant_type,
            "absmax": self.absmax,
            "blocksize": self.blocksize,
            "quant_map": self.code,
            "dtype": str(self.dtype).removeprefix("torch."),
            "shape": None if self.shape is None else tuple(self.shape),
        }
        if self.state2 is not None and self.offset is not None:
            code = self.state2.code
            fields |= {
                "nested_absmax": self.state2.absmax,
                "nested_blocksize": self.state2.blocksize,
                # A file of tensors that share memory is refused by safetensors.
                "nested_quant_map": None if code is None else code.clone(),
                "nested_dtype": str(self.state2.dtype).removeprefix("torch."),
                "nested_offset": self.offset.item(),
            }
        if not packed or self.quant_type is None:
            return fields
        tensors = {name: part for name, part in fields.items() if isinstance(part, torch.Tensor)}
        facts = {name: part for name, part in fields.items() if name not in tensors}
        return {**tensors, f"quant_state.{_PACKED}{self.quant_type}": json_bytes(facts)}

    def to(self, device: torch.device | str | None) -> None:
        """Move every tensor, in place."""
        for state in (self, self.state2):
            if state is not None:
                state.absmax = state.absmax.to(device)
                state.code = None if state.code is None else state.code.to(device)
                state.offset = None if state.offset is None else state.offset.to(device)

    def __eq__(self, other: object) -> bool:
        """Whether every part is the same; scales and codes up to 1e-6."""
        if not isinstance(other, QuantState):
            return False
        facts = [(s.shape, s.dtype, s.blocksize, s.quant_type) for s in (self, other)]
        pairs = [(self.absmax, other.absmax), (self.code, other.code), (self.offset, other.offset)]
        return (
            facts[0] == facts[1]
            and all(_close(mine, theirs) for mine, theirs in pairs)
            and self.state2 == other.state2
        )


def _is_usual(state2: QuantState) -> bool:
    """Whether absmax was compressed in blocks of 256 into the signed dynamic map."""
    if state2.blocksize != NESTED_BLOCK_SIZE or state2.code is None:
        return False
    return state2.code.is_meta or torch.equal(state2.code, dynamic_map(state2.code.device))


def _close(mine: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return mine.shape == theirs.shape and torch.allclose(mine.float(), theirs.float(), atol=1e-6)


def _kind_of_error(missing: set[str]) -> type[InputError]:
    if not missing:
        return StateError  # a key too many
    return InputError if "quant_type" in missing else MissingKeyError


def _unpacked(parts: Mapping[str, Any]) -> dict[str, Any]:
    """With the packed facts among the others."""
    names = [n for n, v in parts.items() if "quant_state" in n and isinstance(v, torch.Tensor)]
    if not names:
        return dict(parts)
    if len(names) > 1 or names[0].split(".")[-1] not in QuantState.valid_qs_type_keys:
        wanted = " or ".join(QuantState.valid_qs_type_keys)
        raise InputError(f"QuantState: there should be one quant_state.{wanted}, was {names}")
    kept = {name: value for name, value in parts.items() if name != names[0]}
    return kept | read_json_bytes(parts[names[0]])
