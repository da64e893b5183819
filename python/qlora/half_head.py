"""The head of a float32 model from half the bytes: its values mostly come from 16-bit files.

At each token the whole head is read from memory, which takes longer than the 4-bit layers together
where these are small. A head whose values are float16 times one power of two is kept so, and
multiplied by torch's kernel for float16 weights and float32 inputs (FBGEMM): products and sums are
those of float32.
"""

import math
from typing import Any

import torch
from torch import nn

# Tokens from which on it is worth it: packing takes about as long as so many of them save.
WORTH_IT_FROM = 80

LARGEST = 2.0**15  # below float16's largest value, which is no power of two
FURTHEST = 60  # powers of two that float32 takes without leaving its range


def halve_head(model: Any) -> bool:
    """Give the model a head that reads half the bytes, if that is exact; whether it was.

    For inference: the new head does not follow its weight, nor has it a gradient.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    weight = head.weight.detach()
    if not (weight.is_cpu and weight.dtype == torch.float32):
        return False
    largest = float(weight.abs().max())
    if not 0 < largest < math.inf:
        return False
    exponent = math.floor(math.log2(LARGEST / largest))
    scale = 2.0**exponent
    if abs(exponent) > FURTHEST or not is_exact(weight, scale):
        return False
    model.set_output_embeddings(HalfHead(head, scale).train(head.training))
    return True


def is_exact(weight: torch.Tensor, scale: float) -> bool:
    """Whether scale * weight consists of float16 values; rows in parts, to need little memory."""
    scaled = (part * scale for part in weight.split(4096))
    return all(torch.equal(part.half().float(), part) for part in scaled)


class HalfHead(nn.Module):
    """`y = (x / scale) (scale W)^T + bias`, [..., k] -> [..., n], with scale W in float16."""

    def __init__(self, head: nn.Linear, scale: float) -> None:
        """`scale`: a power of two for which scale W is exact in float16."""
        super().__init__()
        self.weight, self.bias = head.weight, head.bias  # whoever asks finds them
        self.inverse = 1.0 / scale
        bias = None if head.bias is None else head.bias.detach()
        self.packed = torch.ops.quantized.linear_prepack_fp16(head.weight.detach() * scale, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y, float32; no gradient reaches x."""
        y: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x * self.inverse, self.packed)
        return y
