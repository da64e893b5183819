"""Device code of dropout_mask; importing it imports triton."""

import triton
import triton.language as tl

from qlora_kernels.gpu.philox_device import kept


@triton.jit
def dropout_mask_kernel(seed, out, count, threshold, keep, BLOCK: tl.constexpr):
    """out[i] = [word(i) >= threshold] * keep."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, kept(i, seed, threshold, keep), mask=i < count)
