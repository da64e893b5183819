"""Counters by which thread blocks find out who comes last; a kernel leaves them zero behind.

Launches on one stream follow each other, so they share counters. Those captured in a CUDA graph
may be replayed on any stream: each has counters of its own, from an arena that exists before.
"""

import torch

from qlora_kernels.gpu.availability import capturing

_AT_LEAST = 4096
_ARENA = 1 << 18
_by_stream: dict[tuple[torch.device, int], torch.Tensor] = {}
_arenas: dict[torch.device, list[torch.Tensor]] = {}  # device -> what is left of its arena


def arrivals(count: int, device: torch.device, stream: int) -> torch.Tensor:
    """`count` counters, int32, zero until the launch that they are for."""
    if device.type == "cuda" and capturing():
        return _captured(count, device)
    found = _by_stream.get((device, stream))
    if found is None or found.numel() < count:
        found = torch.zeros(max(count, _AT_LEAST), dtype=torch.int32, device=device)
        _by_stream[device, stream] = found
    if device.type == "cuda" and device not in _arenas:
        _arenas[device] = [torch.zeros(_ARENA, dtype=torch.int32, device=device)]
        torch.cuda.synchronize(device)  # once: graphs on other streams find them zero
    return found


def _captured(count: int, device: torch.device) -> torch.Tensor:
    """Counters for one captured launch; zeroed by the graph itself where the arena has no more."""
    [rest] = _arenas.get(device, [torch.empty(0, dtype=torch.int32, device=device)])
    if rest.numel() < count:
        return torch.zeros(count, dtype=torch.int32, device=device)
    _arenas[device] = [rest[count:]]
    return rest[:count]
