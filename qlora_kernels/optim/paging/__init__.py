"""Pages of optimizer states: on the device under a budget, the others on the host or in a file."""

from qlora_kernels.optim.paging.layout import Run, StateArray, run_bytes
from qlora_kernels.optim.paging.states import (
    PagedStates,
    Piece,
    Work,
    WorkInFile,
    out_of_memory,
    smallest_budget,
)

__all__ = [
    "PagedStates",
    "Piece",
    "Run",
    "StateArray",
    "Work",
    "WorkInFile",
    "out_of_memory",
    "run_bytes",
    "smallest_budget",
]
