"""The quantized tensor: codes, scales and what they stand for, as one frozen value.

Blocks of `block_size` values run over the flattened (row-major) weight; the last one may be short,
and a block may straddle two rows:

    4-bit codes   byte i = code of value 2i in the high nibble, of value 2i + 1 in the low one
    int8 codes    byte i = two's complement code of value i
    scales        float32 absmax per block, or with double quantization a uint8 code per block and
                  absmax[j] = dynamic_map[scales[j]] * nested_absmax[j // 256] + nested_offset

`absmax` is the field's word for a block's scale. A searched scale is a multiple of it; that of
nf4-tuned may be negative, which mirrors the codebook.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qlora_kernels.errors import InputError
from qlora_kernels.formats.codebooks import (
    BLOCK_SIZES,
    FORMATS,
    NESTED_BLOCK_SIZE,
    codebook,
    dynamic_map,
    scale_ratios,
)

# The flat form in which a torch operator takes a base weight; `flatten` and `unflatten` follow it.
SCHEMA = (
    "Tensor codes, Tensor? scales, Tensor? nested_absmax, Tensor? nested_offset, "
    "SymInt[] shape, ScalarType dtype, str format, int block_size"
)


@dataclass(frozen=True)
class QuantSpec:
    """How a weight is to be quantized."""

    format: str = "nf4"
    block_size: int = 64
    double_quant: bool = True
    scale_search: bool = False

    def check(self, op: str) -> None:
        """Refuse an unknown format or block size, or a search in int8, in one line."""
        if self.format not in FORMATS:
            raise InputError(
                f"{op}: format should be one of {', '.join(FORMATS)}, was {self.format!r}"
            )
        if self.block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise InputError(f"{op}: block_size should be one of {sizes}, was {self.block_size!r}")
        if self.scale_search and FORMATS[self.format].codebook is None:
            raise InputError(f"{op}: scale_search should be False for {self.format}, was True")

    @property
    def ratios(self) -> tuple[float, ...]:
        """The multiples of absmax to search a block's scale among; none: it is absmax."""
        searched = self.scale_search or FORMATS[self.format].signed
        return scale_ratios(self.format) if searched else ()

    def num_code_bytes(self, num_values: int) -> int:
        """Bytes of codes of that many values: an odd last nibble takes a whole byte."""
        per_byte = FORMATS[self.format].codes_per_byte
        return (num_values + per_byte - 1) // per_byte

    def num_blocks(self, num_values: int) -> int:
        """Scales of that many values, the short last block included."""
        return (num_values + self.block_size - 1) // self.block_size

    def num_nested_blocks(self, num_values: int) -> int:
        """Scales of the scales."""
        return (self.num_blocks(num_values) + NESTED_BLOCK_SIZE - 1) // NESTED_BLOCK_SIZE


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """`value = codebook[code] * absmax` for 4-bit formats, `code * (absmax / 127)` for int8.

    codes: uint8 [bytes, 1]; scales: float32 [blocks], or uint8 [blocks] when double-quantized, then
    with nested_absmax float32 [ceil(blocks / 256)] and nested_offset float32 []. `dtype` is the
    original weight's and what `dequantize` returns by default. Memory layout at the top of this
    file.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    nested_absmax: torch.Tensor | None
    nested_offset: torch.Tensor | None
    shape: Sequence[int]
    dtype: torch.dtype
    format: str
    block_size: int

    @property
    def spec(self) -> QuantSpec:
        """How this tensor is stored; whether its scales were searched leaves no trace."""
        return QuantSpec(self.format, self.block_size, self.double_quant)

    @property
    def double_quant(self) -> bool:
        """Whether the scales are quantized themselves."""
        return self.nested_absmax is not None

    @property
    def absmax(self) -> torch.Tensor:
        """The effective scale per block, float32 [blocks], whatever is stored."""
        if self.nested_absmax is None or self.nested_offset is None:
            return self.scales
        centred = dynamic_map(self.scales.device)[self.scales.long()]
        per_block = self.nested_absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: centred.numel()]
        return centred * per_block + self.nested_offset

    @property
    def code_values(self) -> torch.Tensor:
        """What the codes of a 4-bit format stand for, float32 [16] by code, beside the codes."""
        return codebook(self.format, self.device)

    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes stored: codes, scales and scales of scales together."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    def to(self, device: torch.device | str) -> "QuantizedTensor":
        """The same value on another device; no bit changes."""
        moved: dict[str, Any] = {name: t.to(device) for name, t in self._tensors().items()}
        return replace(self, **moved)

    # The file formats know this class, so it reaches for them only when asked.

    def state_dict(self, prefix: str = "weight") -> dict[str, torch.Tensor]:
        """Plain tensors under `prefix.codes`, `prefix.scales`, ..., exact."""
        from qlora_kernels.formats.state_dict import to_state_dict

        return to_state_dict(self, prefix)

    @staticmethod
    def from_state_dict(
        state_dict: dict[str, torch.Tensor], prefix: str = "weight"
    ) -> "QuantizedTensor":
        """What `state_dict` took apart; InputError if a part is missing or lies."""
        from qlora_kernels.formats.state_dict import from_state_dict

        return from_state_dict(state_dict, prefix)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically and exactly."""
        from qlora_kernels.formats.state_dict import save

        save(self, path)

    @staticmethod
    def load(path: str | Path) -> "QuantizedTensor":
        """Read what `save` wrote; InputError if the file is unreadable."""
        from qlora_kernels.formats.state_dict import load

        return load(path)

    def to_bitsandbytes(self, prefix: str = "weight") -> dict[str, torch.Tensor]:
        """The keys that bitsandbytes' `Linear4bit.state_dict()` writes; nf4 and fp4 only."""
        from qlora_kernels.formats.bitsandbytes import to_bitsandbytes

        return to_bitsandbytes(self, prefix)

    @staticmethod
    def from_bitsandbytes(
        state_dict: dict[str, torch.Tensor], prefix: str = "weight"
    ) -> "QuantizedTensor":
        """Read bitsandbytes' keys, bit for bit; InputError if incomplete."""
        from qlora_kernels.formats.bitsandbytes import from_bitsandbytes

        return from_bitsandbytes(state_dict, prefix)

    def flatten(self) -> tuple[Any, ...]:
        """The arguments of SCHEMA, in order."""
        return (
            self.codes,
            self.scales,
            self.nested_absmax,
            self.nested_offset,
            self.shape,
            self.dtype,
            self.format,
            self.block_size,
        )

    def check(self, op: str) -> None:
        """Refuse parts that do not belong together (a corrupt file, a lying shape)."""
        self.spec.check(op)
        count = self.numel()
        expected = {
            "codes": ([self.spec.num_code_bytes(count), 1], torch.uint8),
            "scales": (
                [self.spec.num_blocks(count)],
                torch.uint8 if self.double_quant else torch.float32,
            ),
            "nested_absmax": ([self.spec.num_nested_blocks(count)], torch.float32),
            "nested_offset": ([], torch.float32),
        }
        for name, tensor in self._tensors().items():
            shape, dtype = expected[name]
            if list(tensor.shape) != shape or tensor.dtype != dtype:
                raise InputError(
                    f"{op}: {name} of a {self.format} weight {list(self.shape)} should be {dtype} "
                    f"{shape}, was {tensor.dtype} {list(tensor.shape)}"
                )
            if not tensor.is_contiguous():
                raise InputError(
                    f"{op}: {name} should be contiguous, was strided {list(tensor.stride())}"
                )
        if (self.nested_absmax is None) != (self.nested_offset is None):
            raise InputError(f"{op}: nested_absmax and nested_offset should come together, was one")

    def _tensors(self) -> dict[str, torch.Tensor]:
        names = ("codes", "scales", "nested_absmax", "nested_offset")
        return {n: t for n in names if (t := getattr(self, n)) is not None}


# A frozen base weight: quantized, or a plain [out, in] tensor (format "none", 16-bit LoRA).
Base = QuantizedTensor | torch.Tensor


def flatten(base: Base) -> tuple[Any, ...]:
    """The arguments of SCHEMA for any base weight."""
    if isinstance(base, QuantizedTensor):
        return base.flatten()
    return (base, None, None, None, base.shape, base.dtype, "none", 0)


def unflatten(codes: torch.Tensor, scales: torch.Tensor | None, *rest: Any) -> Base:
    """The base weight that `flatten` took apart."""
    if scales is None:
        return codes
    nested_absmax, nested_offset, shape, dtype, format, block_size = rest
    return QuantizedTensor(
        codes, scales, nested_absmax, nested_offset, torch.Size(shape), dtype, format, block_size
    )
