"""How coarse the codes of a quantized weight are, told without the weight that they stand for."""

import torch
from torch import Tensor

import qlora_kernels as qk
from qlora_kernels.formats import QuantizedTensor
from qlora_kernels.formats.codebooks import INT8_MAX, codebook


def code_noise(weight: QuantizedTensor) -> float:
    """Estimate of ||W - dequantize(codes)|| / ||dequantize(codes)||.

    Between two thresholds, a and b away from its code's value, a weight is taken to be anywhere
    alike, so its squared error is (a^3 + b^3) / (3 (a + b)) of its block's scale squared. Beyond
    the outermost codes there is nothing: the largest weight of a block is a code exactly.
    """
    values = qk.dequantize(weight, dtype=torch.float32).flatten()
    scales = weight.absmax.abs()
    blocks = torch.arange(len(values), device=values.device) // weight.block_size
    per_value = scales[blocks]
    error = (_squared_errors(weight, values / per_value) * per_value.square()).sum(
        dtype=torch.double
    )
    size = values.square().sum(dtype=torch.double)
    return float((error / size).sqrt()) if size else 0.0


def _squared_errors(weight: QuantizedTensor, codes: Tensor) -> Tensor:
    """Of each code, given as value / scale; blocks of zeros, 0 / 0, have none."""
    codes = codes.nan_to_num(0.0)
    if weight.format == "int8":
        return torch.full_like(codes, 1 / (12 * INT8_MAX**2))
    ordered = codebook(weight.format, codes.device).unique()
    reach = torch.cat([ordered.new_zeros(1), ordered.diff() / 2, ordered.new_zeros(1)])
    below, above = reach[:-1], reach[1:]
    errors = (below**3 + above**3) / (3 * (below + above))
    nearest = torch.bucketize(codes, (ordered[:-1] + ordered[1:]) / 2)
    return errors[nearest]
