"""Blockwise quantization of a weight.

    absmax[j] = max |w[i]| over block j
    code[i]   = nearest codebook value to w[i] / absmax[j]     (nf4, fp4; ties to the lower value)
    code[i]   = round(w[i] / (absmax[j] / 127))                (int8; ties to even)
    with double quantization  absmax[j] ~ dynamic_map[c[j]] * nested_absmax[j // 256] + mean(absmax)

With scale_search the scale is the multiple of absmax, among `codebooks.scale_ratios`, whose squared
error on the block is least (absmax itself where none is better), and of the 8-bit scale nearest to
it and its two neighbours again the best; codes are the nearest for the scale that is kept. So does
nf4-tuned always, whose scales have a sign and are centred on 0. A search may weigh the errors:

    sum over the block of importance[column of i] (w[i] - dequantized[i])^2

With the mean square of each input feature as importance this is the error of the layer's output,
as far as inputs are not correlated. Without inputs to measure nf4-tuned takes what a matrix itself
tells of them: columns of small weights read large inputs (`rule.column_importance`).

Sources: QLoRA (arXiv 2305.14314, sections 2 and 3); unsearched codes are bit-identical to
bitsandbytes' CPU path. All backends give the same bits (order of sums: scale_search.py).
"""

from typing import Any

import torch

from qlora_kernels.checks import FLOATS, InputError, check_dtype
from qlora_kernels.dispatch import Room, define
from qlora_kernels.formats import QuantizedTensor, QuantSpec
from qlora_kernels.formats.codebooks import FORMATS
from qlora_kernels.ops.quantize import cuda_kernel, native_kernel, reference, triton_kernel
from qlora_kernels.ops.quantize.rule import checked_importance, column_importance

ROOM = Room("quantize", native_kernel, triton_kernel, cuda_kernel, reference)


def quantize(
    w: torch.Tensor,
    format: str = "nf4",
    block_size: int = 64,
    double_quant: bool = True,
    scale_search: bool = False,
    importance: torch.Tensor | None = None,
) -> QuantizedTensor:
    """`code = nearest(w / absmax)` per block of the flattened weight; formula at the top of this
    file.

    w: any shape, float32, bfloat16, float16 (float64 is rounded to float32 first). format: "nf4",
    "fp4", "int8", or "nf4-tuned" (less error at the same size; only this library reads it).
    block_size: 32, 64, 128, ... 4096 values. double_quant: store the scales in 8 bits.
    scale_search: for nf4 and fp4, the scale of least squared error instead of absmax, in files that
    bitsandbytes reads; nf4-tuned searches anyway. importance: what an error in each column counts
    in the search, float [last size of w], 0 or more (nn.measure_importance finds it).

    Raises InputError for an unknown format, block size or dtype, scale_search with int8, importance
    without a search or of another shape, and for a NaN or infinity in w, with its index.
    """
    spec = QuantSpec(format, block_size, double_quant, scale_search)
    spec.check("quantize")
    check_dtype("quantize", "w", w, FLOATS)
    if importance is not None:
        importance = checked_importance(importance, w, spec)
    elif FORMATS[format].signed:
        importance = column_importance(w)
    codes, scales, nested_absmax, nested_offset = _quantize(
        w.detach(), format, block_size, double_quant, scale_search, importance=importance
    )
    if not double_quant:
        nested_absmax = nested_offset = None
    return QuantizedTensor(
        codes, scales, nested_absmax, nested_offset, w.shape, w.dtype, format, block_size
    )


def _run(
    w: torch.Tensor, *how: Any, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    spec = QuantSpec(*how)
    w = w.contiguous()
    q = ROOM.choose(w, spec, importance).quantize(w, spec, importance)
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
    w: torch.Tensor, *how: Any, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    spec = QuantSpec(*how)
    count = w.numel()
    floats = w.new_empty(spec.num_blocks(count), dtype=torch.float32)
    codes = w.new_empty((spec.num_code_bytes(count), 1), dtype=torch.uint8)
    if not spec.double_quant:
        return codes, floats, floats.new_empty(0), floats.new_empty(0)
    nested = floats.new_empty(spec.num_nested_blocks(count))
    return codes, torch.empty_like(floats, dtype=torch.uint8), nested, floats.new_empty(())


_quantize = define(
    "quantize(Tensor w, str format, int block_size, bool double_quant, bool scale_search=False, *, "
    "Tensor? importance=None)"
    " -> (Tensor codes, Tensor scales, Tensor nested_absmax, Tensor nested_offset)",
    _run,
    _fake,
)
