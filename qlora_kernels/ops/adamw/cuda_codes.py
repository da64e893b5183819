"""What the codes of 8-bit states mean, as csrc/cuda/adamw8bit.h has it: bytes on the GPU.

    float32 map[256] | float32 thresholds[255], inf | uint8 first[MOST_CELLS]

for exp_avg and then for exp_avg_sq. A cell is an interval of scaled values that share the upper
bits of their float32: the last cell is that of 1, the first one reaches down to 0, and where there
are signs those below zero follow. first[cell] is the number of thresholds below all of its values.
"""

from functools import cache

import torch

from qlora_kernels.formats.blockwise8 import thresholds
from qlora_kernels.formats.codebooks import dynamic_map
from qlora_kernels.gpu import cuda_module
from qlora_kernels.ops.adamw.triton_kernel import rounded_thresholds

_MANTISSA = 23  # bits of a float32


@cache
def state_tables(device: torch.device) -> torch.Tensor:
    """The bytes of both moments' tables."""
    return torch.cat([_table(signed) for signed in (True, False)]).to(device)


def _table(signed: bool) -> torch.Tensor:
    cpu = torch.device("cpu")
    floats = [dynamic_map(cpu, signed), rounded_thresholds(cpu, signed), torch.tensor([torch.inf])]
    smallest, _ = cells(signed)
    first = torch.bucketize(smallest.double(), thresholds(cpu, signed)).to(torch.uint8)
    room = first.new_zeros(cuda_module.kernels().MOST_CELLS - len(first))
    return torch.cat([torch.cat(floats).view(torch.uint8), first, room])


def cells(signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest float32 of each cell, in the order of their numbers."""
    module = cuda_module.kernels()
    start, count, bits = module.SIGNED_CELLS if signed else module.UNSIGNED_CELLS
    edges = (torch.arange(start, start + count + 1) << (_MANTISSA - bits)).int()
    edges[0] = 0
    low, high = edges[:-1].view(torch.float32), (edges[1:] - 1).view(torch.float32)
    if not signed:
        return low, high
    return torch.cat([low, -high]), torch.cat([high, -low])
