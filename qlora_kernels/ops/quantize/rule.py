"""What every quantization kernel shares."""

import numpy as np
import torch

from qlora_kernels.checks import InputError
from qlora_kernels.formats import QuantSpec
from qlora_kernels.formats.codebooks import FORMATS

TINY = 1e-38  # bitsandbytes' floor of a 4-bit block's absmax


def refuse_nonfinite(w: torch.Tensor, index: int) -> None:
    """Raise InputError with the place of a value that is not finite; index < 0: there is none."""
    if index >= 0:
        where = [int(i) for i in np.unravel_index(index, tuple(w.shape))]
        value = w.reshape(-1)[index].item()
        raise InputError(f"quantize: w should be finite in float32, was {value} at {where}")


def nested_offset(scales: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """What double quantization centres on: the mean, or 0 for signed scales, whose middle it is."""
    is_plain = scales.numel() > 0 and not FORMATS[spec.format].signed
    return scales.mean() if is_plain else scales.new_zeros(())
