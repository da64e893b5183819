"""What every quantization kernel shares."""

import numpy as np
import torch

from qlora_kernels.checks import InputError

TINY = 1e-38  # bitsandbytes' floor of a 4-bit block's absmax


def refuse_nonfinite(w: torch.Tensor, index: int) -> None:
    """Raise InputError with the place of a value that is not finite; index < 0: there is none."""
    if index >= 0:
        where = [int(i) for i in np.unravel_index(index, tuple(w.shape))]
        value = w.reshape(-1)[index].item()
        raise InputError(f"quantize: w should be finite in float32, was {value} at {where}")
