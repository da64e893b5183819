"""Quantization by the native CPU kernels."""

import torch

from qlora_kernels import native
from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.ops.quantize.rule import nested_offset, refuse_nonfinite

BACKEND = "cpu"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuses(w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None) -> str | None:
    """Takes float32, bfloat16 and float16 on the CPU."""
    if w.device.type != "cpu":
        return f"w is on {w.device}"
    return None if w.dtype in _DTYPES else f"w is {w.dtype}"


def quantize(
    w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None = None
) -> QuantizedTensor:
    """Codes and scales in one pass over w, scales of scales in one over them; and where the scales
    were searched, the codes once more for the scales that double quantization leaves.
    """
    kernels, tables = native.cpu(), native.tables(spec.format, spec.ratios)
    threads = torch.get_num_threads()
    count = w.numel()
    codes = torch.empty(spec.num_code_bytes(count), 1, dtype=torch.uint8)
    absmax = torch.empty(spec.num_blocks(count))
    w = w.detach().contiguous()
    weight = (w, importance)
    bad = kernels.quantize(weight, spec.block_size, tables, codes, absmax, threads)
    refuse_nonfinite(w, bad)
    parts: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = (absmax, None, None)
    if spec.double_quant:
        offset = nested_offset(absmax, spec)
        scales = torch.empty_like(absmax, dtype=torch.uint8)
        nested = torch.empty(spec.num_nested_blocks(count))
        kernels.quantize_scales(absmax, offset.item(), tables, scales, nested, threads)
        if spec.ratios:
            parameters = (scales, nested, offset.item())
            kernels.quantize_nested(weight, spec.block_size, tables, codes, parameters, threads)
        parts = (scales, nested, offset)
    return QuantizedTensor(codes, *parts, w.shape, w.dtype, spec.format, spec.block_size)
