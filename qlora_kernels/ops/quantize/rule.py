"""What every quantization kernel shares: the smallest scale, and the refusal of a value that is none."""

import numpy as np
import torch

from qlora_kernels.checks import InputError

TINY = 1e-38  # bitsandbytes' floor of a 4-bit block's absmax


def refuse_nonfinite(w: torch.Tensor, index: int) -> None:
    """Raise InputError naming the flat index of the first value that is not finite, if index >= 0."""
    if index >= 0:
        where = [int(i) for i in np.unravel_index(index, tuple(w.shape))]
        value = w.reshape(-1)[index].item()
        raise InputError(f"quantize: w should be finite, was {value} at {where}")
