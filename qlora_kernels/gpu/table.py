"""A codebook as kernels read it, once before their loop: values, byte planes and a factor.

    int32 [2, 33] = bits of 16 float32 values | planes[4][4] | bits of one float32 factor

Plane p holds byte p of each value's bits in the kernel's dtype, four codes to a word: a register
permute (PTX `prmt`) picks one of eight bytes by a code's low bits, a second one by its high bit.
"""

from functools import cache

import numpy as np
import torch

from qlora_kernels.formats.codebooks import FORMATS

VALUES, PLANES, FACTOR = 0, 16, 32  # where each part starts
COPY = 33  # and a copy of it all (decode_device.py says why)

# Candidates for the factor in [1, 2): more of them change the error by less than its tenth.
_CANDIDATES = 256


@cache
def table(format_name: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The table of a format for kernels that decode to `dtype`; of zeros for int8."""
    values = FORMATS[format_name].codebook
    if values is None:
        return torch.zeros(2 * COPY, dtype=torch.int32, device=device)
    rounded, factor = round_well(torch.tensor(values), dtype)
    bits = rounded.to(dtype).view(torch.uint8).view(16, dtype.itemsize).numpy()
    planes = np.zeros((4, 16), np.uint8)
    planes[: dtype.itemsize] = bits.T
    words = [
        rounded.view(torch.int32),
        torch.from_numpy(planes.view(np.int32).ravel().copy()),
        torch.tensor([factor]).view(torch.int32),
    ]
    return torch.cat(words * 2).to(device)


def round_well(values: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """(rounded, factor) with `values ~ rounded * factor`, rounded exact in `dtype`.

    Sixteen values rounded as they are err to one side; scaled by a well chosen number between 1
    and 2 first, they err less and evenly. The factor goes into the float32 scales, for nothing.
    """
    if dtype == torch.float32:
        return values, 1.0
    scales = 2 ** (torch.arange(_CANDIDATES) / _CANDIDATES).double()
    rounded = (values.double() * scales[:, None]).to(dtype).double()  # [candidates, 16]
    # The least-squares factor of each candidate leaves an error at right angles to the values.
    factors = (rounded @ values.double()) / rounded.square().sum(dim=1)
    errors = (rounded * factors[:, None] - values.double()).square().sum(dim=1)
    best = int(errors.argmin())
    return rounded[best].float(), float(factors[best])
