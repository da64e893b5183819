"""Quantization by Triton kernels: one over the weight, one over its scales."""

from collections.abc import Iterator
from functools import cache

import torch

from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.formats.codebooks import FORMATS, NESTED_BLOCK_SIZE, dynamic_map, encoding
from qlora_kernels.gpu.availability import misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import TRITON_TYPES, launch
from qlora_kernels.ops.quantize import triton_search
from qlora_kernels.ops.quantize.rule import nested_offset, refuse_nonfinite
from qlora_kernels.ops.quantize.triton_search import ScaleSearch

BACKEND = "triton"

_VALUES = 4096  # per program: the longest block
_NUM_WARPS = 8


def refuses(w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None) -> str | None:
    """Takes float32, bfloat16 and float16 on an NVIDIA GPU."""
    return misplaced("w", w) if w.dtype in TRITON_TYPES else f"w is {w.dtype}"


def quantize(
    w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None = None
) -> QuantizedTensor:
    """Codes and absmax in one pass over w; scales of scales in a second one over absmax. Where
    scales are searched, that gives scales and codes, and once more after their quantization.
    """
    from qlora_kernels.ops.quantize.triton_device import quantize_kernel

    w, count = w.detach().contiguous(), w.numel()
    programs = -(-count // _VALUES)
    codes = w.new_empty((spec.num_code_bytes(count), 1), dtype=torch.uint8)
    absmax = w.new_empty(spec.num_blocks(count), dtype=torch.float32)
    is_bad = w.new_zeros(programs, dtype=torch.int32)
    thresholds, order = _encoding(spec.format, w.device)
    launch(
        quantize_kernel,
        (programs,),
        w.device,
        *(w, thresholds, order, codes, absmax, is_bad, count),
        **_constants(spec.format, spec.block_size, count % spec.block_size != 0),
        num_warps=_NUM_WARPS,
        enable_fp_fusion=False,  # bits equal the reference's
    )
    if is_bad.any():
        refuse_nonfinite(w, int((~w.reshape(-1).float().isfinite()).to(torch.uint8).argmax()))
    scales, search = absmax, None
    if spec.ratios:
        search = ScaleSearch(w, absmax, spec, (thresholds, order), importance)
        scales = search.best_scales(codes)
    if not spec.double_quant:
        return QuantizedTensor(
            codes, scales, None, None, w.shape, w.dtype, spec.format, spec.block_size
        )
    parts = _quantize_scales(scales, spec)
    if search is not None:
        parts = (search.best_nested(codes, parts), *parts[1:])
    return QuantizedTensor(codes, *parts, w.shape, w.dtype, spec.format, spec.block_size)


def _quantize_scales(
    absmax: torch.Tensor, spec: QuantSpec
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(uint8 codes, nested absmax, offset)."""
    from qlora_kernels.ops.quantize.triton_device import quantize_scales_kernel

    count = absmax.numel()
    offset = nested_offset(absmax, spec)
    scales = torch.empty_like(absmax, dtype=torch.uint8)
    nested = absmax.new_empty(-(-count // NESTED_BLOCK_SIZE))
    launch(
        quantize_scales_kernel,
        (nested.numel(),),
        absmax.device,
        *(absmax, offset, dynamic_map(absmax.device), scales, nested, count),
        SIZE=NESTED_BLOCK_SIZE,
        enable_fp_fusion=False,
    )
    return scales, nested, offset


@cache
def _encoding(format_name: str, device: torch.device) -> tuple[torch.Tensor, int]:
    """(thresholds, codes in order of their values packed into 64 bits); of int8 placeholders."""
    if FORMATS[format_name].codebook is None:
        return torch.zeros(1, device=device), 0
    thresholds, order = encoding(format_name, device)
    packed = sum(code << (4 * place) for place, code in enumerate(order.tolist()))
    return thresholds, packed - ((packed >> 63) << 64)


def _constants(format_name: str, block_size: int, is_ragged: bool) -> dict[str, int]:
    return {
        "BITS": FORMATS[format_name].bits,
        "BLOCK_SIZE": block_size,
        "ROWS": _VALUES // block_size,
        "RAGGED": is_ragged,
    }


def compile_cases() -> Iterator[CompileCase]:
    """The usual block size in every dtype, 4 and 8 bits; the scales; and the search for them."""
    from qlora_kernels.ops.quantize.triton_device import quantize_kernel, quantize_scales_kernel

    for format_name in ("nf4", "int8"):
        for name in TRITON_TYPES.values():
            constants = _constants(format_name, 64, False)
            signature = {
                "w": f"*{name}",
                "thresholds": "*fp32",
                "order": "i64",
                "codes": "*u8",
                "absmax": "*fp32",
                "is_bad": "*i32",
                "count": "i32",
            }
            yield CompileCase(
                "quantize",
                f"{name} to {format_name}",
                quantize_kernel,
                signature | dict.fromkeys(constants, "constexpr"),
                constants,
                num_warps=_NUM_WARPS,
                fp_fusion=False,
                aligned=("w", "thresholds", "codes", "absmax", "is_bad", "count"),
            )
    floats = dict.fromkeys(("absmax", "offset", "values"), "*fp32")
    signature = floats | {"codes": "*u8", "nested_absmax": "*fp32", "count": "i32"}
    yield CompileCase(
        "quantize",
        "scales of scales",
        quantize_scales_kernel,
        signature | {"SIZE": "constexpr"},
        {"SIZE": NESTED_BLOCK_SIZE},
        fp_fusion=False,
        aligned=tuple(signature),
    )
    yield from triton_search.compile_cases()
