"""Memory of this process or its GPU, and of what autograd keeps."""

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


def peak_bytes(device: torch.device) -> int:
    """Largest allocation on a GPU so far, or largest resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


@dataclass
class Kept:
    """Bytes that autograd keeps."""

    bytes: int = 0


@contextmanager
def counting_kept(own: Iterable[Tensor]) -> Iterator[Kept]:
    """Count what a forward pass within keeps, each storage once; `own` is there anyway.

    The storages must live until the end of the block, as those of a loss do that is held.
    """
    kept = Kept()
    seen = {tensor.untyped_storage().data_ptr() for tensor in own}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept
