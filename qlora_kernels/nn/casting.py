"""Casting a model casts what it computes in, not what is trained."""

from collections.abc import Callable, Iterable

import torch

Cast = Callable[[torch.Tensor], torch.Tensor]


def casting_only(fn: Cast, castable: Iterable[torch.Tensor]) -> Cast:
    """`fn`, as `nn.Module._apply` takes it, which moves every tensor but casts these alone."""
    known = {id(tensor) for tensor in castable}

    def keeping_bits(tensor: torch.Tensor) -> torch.Tensor:
        moved = fn(tensor)
        if moved.dtype == tensor.dtype or id(tensor) in known:
            return moved
        return tensor.to(moved.device)

    return keeping_bits
