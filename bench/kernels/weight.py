"""The base weight of linear cases: quantized and decoded once for all cases of a shape.

Cases of one weight stand next to each other (command.py), so the last one made is enough.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

import qlora_kernels as qk
from bench.kernels.case import DTYPES


@dataclass(frozen=True, eq=False)
class Weight:
    """W [n, k], and its values as the reference decodes them."""

    q: qk.QuantizedTensor

    @cached_property
    def exact(self) -> torch.Tensor:
        """[n, k], float32."""
        with qk.use_backend("reference"):
            return qk.dequantize(self.q, torch.float32)

    @cached_property
    def rounded(self) -> torch.Tensor:
        """In the dtype that was quantized; by columns, as a product with dy wants them.

        Over rows, torch takes seconds for it on a CPU without instructions for 16-bit products.
        """
        return self.exact.to(self.q.dtype).t().contiguous().t()


@lru_cache(maxsize=1)
def random_weight(n: int, k: int, dtype: str, format: str, place: tuple[str, int]) -> Weight:
    """Normal values of variance 1 / k, quantized from `dtype`; place: the device, and a seed."""
    device, seed = place
    random = torch.Generator(device).manual_seed(seed)
    w = torch.randn(n, k, generator=random, device=device) * k**-0.5
    return Weight(qk.quantize(w.to(DTYPES[dtype]), format))
