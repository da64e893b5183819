"""What pages run on: a CPU has frames in memory over a file, a GPU over pinned memory."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from qlora_kernels.errors import InputError
from qlora_kernels.optim.paging.lanes import CallerLane, ThreadLane
from qlora_kernels.optim.paging.pager import Machine
from qlora_kernels.optim.paging.stores import PageFile


def machine_for(device: torch.device, page_file: Path | None) -> Machine:
    """The machine of a device.

    page_file: where a file of pages is made. A GPU uses one only where this is given.
    """
    if device.type == "cpu":
        # One thread fetches and stores: it has one memory to copy through.
        copying = ThreadLane("qlora-paging")
        return Machine(
            computing=CallerLane(),
            fetching=copying,
            storing=copying,
            allocate=_allocate,
            open_store=partial(PageFile, page_file),
        )
    if device.type == "cuda":
        from qlora_kernels.optim.paging.cuda_machine import cuda_machine

        return cuda_machine(device, page_file)
    raise InputError(f"AdamW: paged states should be on cpu or cuda, were on {device}")


def _allocate(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)
