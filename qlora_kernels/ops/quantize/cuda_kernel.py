"""Quantization by CUDA kernels: one over the weight, one over its scales; searched scales take one
more over the weight, for the 8-bit ones.
"""

from functools import cache

import torch

from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.formats.codebooks import FORMATS, dynamic_map, scale_ratios
from qlora_kernels.gpu import cuda_module
from qlora_kernels.ops.quantize.rule import nested_offset, refuse_nonfinite

BACKEND = "cuda"


def refuses(w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None) -> str | None:
    """Takes float32, bfloat16 and float16 on an NVIDIA GPU."""
    return cuda_module.misplaced("w", w)


def quantize(
    w: torch.Tensor, spec: QuantSpec, importance: torch.Tensor | None = None
) -> QuantizedTensor:
    """Codes and scales in one pass over w, scales of scales in a second one over them; and where
    scales were searched, the codes once more for the scales that double quantization leaves.
    """
    kernels, count = cuda_module.kernels(), w.numel()
    w = w.detach().contiguous()
    codes = w.new_empty((spec.num_code_bytes(count), 1), dtype=torch.uint8)
    absmax = w.new_empty(spec.num_blocks(count), dtype=torch.float32)
    is_bad = w.new_zeros(1, dtype=torch.int32)
    outputs = [part.data_ptr() for part in (codes, absmax, is_bad)]
    shape, codebook = [count, spec.block_size], FORMATS[spec.format].codebook
    task = kernels.Quantize(w.data_ptr(), cuda_module.element(w), shape, codebook, outputs)
    counts = _counted(importance)
    with cuda_module.stream_of(w) as stream:
        if spec.ratios:
            kernels.search_scales(task, counts, _counted(_ratios(spec.format, w.device)), stream)
        else:
            kernels.quantize(task, stream)
    if is_bad.item():
        refuse_nonfinite(w, int((~w.reshape(-1).float().isfinite()).to(torch.uint8).argmax()))
    parts: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = (absmax, None, None)
    if spec.double_quant:
        scales, nested, offset = _quantize_scales(absmax, spec)
        if spec.ratios:
            four = (scales, nested, dynamic_map(w.device), offset)
            with cuda_module.stream_of(w) as stream:
                kernels.search_nested(task, counts, [part.data_ptr() for part in four], stream)
        parts = (scales, nested, offset)
    return QuantizedTensor(codes, *parts, w.shape, w.dtype, spec.format, spec.block_size)


def _counted(values: torch.Tensor | None) -> tuple[int, int]:
    """Its address, 0 for none, and how many there are."""
    return (0, 0) if values is None else (values.data_ptr(), values.numel())


@cache
def _ratios(format_name: str, device: torch.device) -> torch.Tensor:
    return torch.tensor(scale_ratios(format_name), dtype=torch.float32, device=device)


def _quantize_scales(
    absmax: torch.Tensor, spec: QuantSpec
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(uint8 codes, nested absmax, offset)."""
    offset, values = nested_offset(absmax, spec), dynamic_map(absmax.device)
    scales = torch.empty_like(absmax, dtype=torch.uint8)
    nested = absmax.new_empty(spec.num_nested_blocks(absmax.numel() * spec.block_size))
    inputs = [part.data_ptr() for part in (absmax, offset, values)]
    outputs = [part.data_ptr() for part in (scales, nested)]
    with cuda_module.stream_of(absmax) as stream:
        cuda_module.kernels().quantize_scales(inputs, absmax.numel(), outputs, stream)
    return scales, nested, offset
