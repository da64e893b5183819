"""Device code of linear_cross_entropy; importing it imports triton."""

import triton
import triton.language as tl

from qlora_kernels.gpu.decode_device import rounded, widened
from qlora_kernels.ops.linear_cross_entropy.problem import IGNORE as _IGNORE

IGNORE = tl.constexpr(_IGNORE)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32, where the search for the largest begins


@triton.jit
def loss_kernel(
    logits, labels, losses, v, label_smoothing,
    SMOOTHED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The loss of one row of logits [v]; GRADIENT: its gradient takes the place of the logits.

    The first pass keeps the largest logit so far and the sum of exponentials below it (online
    softmax); the second finds the row in the cache.
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    has_label = label != IGNORE
    at = logits + row * v
    # Before the sums, at which all threads meet: afterwards another one may have replaced it.
    chosen = widened(tl.load(at + label, mask=has_label, other=0.0))
    lanes = tl.arange(0, BLOCK)
    largest = tl.full((), LOWEST, tl.float32)
    total = tl.zeros((), tl.float32)
    linear = tl.zeros((), tl.float32)
    for first in range(0, v, BLOCK):
        column = first + lanes
        x = widened(tl.load(at + column, mask=column < v, other=float("-inf")))
        higher = tl.maximum(largest, tl.max(x, axis=0))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(x - higher), axis=0)
        largest = higher
        if SMOOTHED:
            linear += tl.sum(tl.where(column < v, x, 0.0), axis=0)
    loss = largest - chosen + tl.log(total)
    if SMOOTHED:
        loss += label_smoothing * (chosen - linear / v)
    tl.store(losses + row, tl.where(has_label, loss, 0.0))
    if GRADIENT:
        inverse = tl.where(has_label, 1.0 / total, 0.0)
        even = tl.where(has_label, label_smoothing / v, 0.0)
        for first in range(0, v, BLOCK):
            column = first + lanes
            x = widened(tl.load(at + column, mask=column < v, other=float("-inf")))
            gradient = tl.exp(x - largest) * inverse
            if SMOOTHED:
                gradient -= even
            gradient -= tl.where(column == label, 1.0 - label_smoothing, 0.0)
            tl.store(at + column, rounded(gradient, logits.dtype.element_ty), mask=column < v)
