"""Blockwise quantization of a weight.

    absmax[j] = max |w[i]| over block j
    code[i]   = nearest codebook value to w[i] / absmax[j]     (nf4, fp4; ties to the lower value)
    code[i]   = round(w[i] / (absmax[j] / 127))                (int8; ties to even)
    with double quantization  absmax[j] ~ dynamic_map[c[j]] * nested_absmax[j // 256] + mean(absmax)

Sources: QLoRA (arXiv 2305.14314, sections 2 and 3); codes are bit-identical to bitsandbytes' CPU
path.
"""

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype
from qlora_kernels.dispatch import Room, define
from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.ops.quantize import native_kernel, reference

ROOM = Room("quantize", native_kernel, reference)


def quantize(
    w: torch.Tensor, format: str = "nf4", block_size: int = 64, double_quant: bool = True
) -> QuantizedTensor:
    """`code = nearest(w / absmax)` per block of the flattened weight; formula at the top of this
    file.

    w: any shape, float32, bfloat16, float16 (float64 is rounded to float32 first). format: "nf4",
    "fp4" or "int8". block_size: 32, 64, 128, ... 4096 values. double_quant: store the scales in 8
    bits.

    Raises InputError for an unknown format, block size or dtype, and for a NaN or infinity in w,
    with its index.
    """
    spec = QuantSpec(format, block_size, double_quant)
    spec.check("quantize")
    check_dtype("quantize", "w", w, FLOATS)
    codes, scales, nested_absmax, nested_offset = _quantize(
        w.detach(), format, block_size, double_quant
    )
    if not double_quant:
        nested_absmax = nested_offset = None
    return QuantizedTensor(
        codes, scales, nested_absmax, nested_offset, w.shape, w.dtype, format, block_size
    )


def _run(
    w: torch.Tensor, format: str, block_size: int, double_quant: bool
) -> tuple[torch.Tensor, ...]:
    spec = QuantSpec(format, block_size, double_quant)
    w = w.contiguous()
    q = ROOM.choose(w, spec).quantize(w, spec)
    # An operator cannot return None, so a plain one returns empties.
    if q.nested_absmax is None or q.nested_offset is None:
        return q.codes, q.scales, q.scales.new_empty(0), q.scales.new_empty(0)
    if not q.nested_offset.isfinite():
        raise InputError(
            "quantize: the mean of absmax should be finite in float32 for double quantization, "
            f"was {q.nested_offset.item()}"
        )
    return q.codes, q.scales, q.nested_absmax, q.nested_offset


def _fake(
    w: torch.Tensor, format: str, block_size: int, double_quant: bool
) -> tuple[torch.Tensor, ...]:
    spec = QuantSpec(format, block_size, double_quant)
    count = w.numel()
    floats = w.new_empty(spec.num_blocks(count), dtype=torch.float32)
    codes = w.new_empty((spec.num_code_bytes(count), 1), dtype=torch.uint8)
    if not double_quant:
        return codes, floats, floats.new_empty(0), floats.new_empty(0)
    nested = floats.new_empty(spec.num_nested_blocks(count))
    return codes, torch.empty_like(floats, dtype=torch.uint8), nested, floats.new_empty(())


_quantize = define(
    "quantize(Tensor w, str format, int block_size, bool double_quant)"
    " -> (Tensor codes, Tensor scales, Tensor nested_absmax, Tensor nested_offset)",
    _run,
    _fake,
)
