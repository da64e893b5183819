"""What an AdamW is asked for beside torch's own arguments."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.checks import InputError, check_choice

BITS = (32, 8)
REFUSED = ("amsgrad", "maximize")  # of torch's AdamW


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of qk.optim.AdamW; raises InputError for values that make no sense.

    bits: of the states, 32 or 8; 8-bit ones take a quarter of the memory. A parameter of fewer than
    min_quantized_size elements keeps 32-bit states. master_weights: 16-bit parameters are rounded
    copies of float32 masters, so that updates below their last digit are not lost.

    max_gradient_norm: clip the global norm of the gradients, after unscaling. skip_nonfinite: a
    step with a gradient that is not finite changes nothing, and counts in `skipped_steps`.

    paged: states live in pages, of which at most memory_budget bytes (None: as many as there is
    room for) are on the device, or in memory on a CPU; the others are in pinned host memory, or in
    a file. page_file is the place of that file, a folder or a path that does not exist; a CPU takes
    the temporary folder where none is given.
    """

    bits: int = 32
    paged: bool = False
    memory_budget: int | None = None
    page_file: str | Path | None = None
    max_gradient_norm: float | None = None
    skip_nonfinite: bool = True
    master_weights: bool = True
    min_quantized_size: int = 4096

    def __post_init__(self) -> None:
        check_choice("AdamW", "bits", self.bits, BITS)
        budget = self.memory_budget
        if budget is not None and (type(budget) is not int or budget < 1):
            raise InputError(f"AdamW: memory_budget should be a number of bytes, was {budget!r}")
        for name in ("memory_budget", "page_file"):
            if not self.paged and getattr(self, name) is not None:
                raise InputError(f"AdamW: {name} should come with paged=True, came without")
        norm = self.max_gradient_norm
        if norm is not None and not (isinstance(norm, (int, float)) and 0 < norm < float("inf")):
            raise InputError(f"AdamW: max_gradient_norm should be above 0, was {norm!r}")
        size = self.min_quantized_size
        if type(size) is not int or size < 0:
            raise InputError(f"AdamW: min_quantized_size should be a size, was {size!r}")

    def bits_of(self, parameter: Tensor, bits: int) -> int:
        """How a parameter's states are kept in a group of so many bits."""
        return 32 if parameter.numel() < self.min_quantized_size else bits

    def has_master(self, parameter: Tensor) -> bool:
        """Whether a parameter has a float32 master."""
        return self.master_weights and parameter.dtype != torch.float32

    @classmethod
    def of(cls, options: dict[str, Any]) -> "Settings":
        """From keyword arguments; an unknown one is refused with what it may have meant."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                raise InputError(f"AdamW: {name!r} is no argument ({hint})")
        return cls(**options)


def check_group(group: Mapping[str, Any]) -> None:
    """Refuse numbers of a parameter group that make no sense, and what would be left undone."""
    check_choice("AdamW", "bits", group["bits"], BITS)
    for name in REFUSED:
        if group.get(name):
            raise InputError(f"AdamW: {name} of a group should be False, was True")
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= float(group[name]) < float("inf"):
            raise InputError(f"AdamW: {name} should be 0 or more, was {group[name]}")
    betas = group["betas"]
    if len(betas) != 2:
        raise InputError(f"AdamW: betas should be two, were {betas}")
    if not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"AdamW: betas should be in [0, 1), were {betas}")
