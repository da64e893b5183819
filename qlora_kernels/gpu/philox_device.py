"""Device code of the dropout masks (ops/dropout_mask has the rule); importing it imports triton."""

import triton
import triton.language as tl


@triton.jit
def kept(index, seed, threshold, scale):
    """`[word(index) >= threshold] * scale`: index int64, seed a pointer, threshold = floor(p 2^32).

    word: the first of Philox4x32-10 for counter = index and key = seed.
    """
    key = tl.load(seed)
    zero = tl.zeros_like(index).to(tl.uint32)
    low = (index & 0xFFFFFFFF).to(tl.uint32)
    high = ((index >> 32) & 0xFFFFFFFF).to(tl.uint32)
    word, _, _, _ = tl.philox(key, low, high, zero, zero)
    return tl.where(word.to(tl.int64) >= threshold, scale, 0.0)
