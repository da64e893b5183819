"""Peak memory of this process or its GPU."""

import resource

import torch


def peak_bytes(device: torch.device) -> int:
    """Largest allocation on a GPU so far, or largest resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
