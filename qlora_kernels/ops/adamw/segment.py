"""What a step works on, as values: segments of parameters, their settings, and the gate."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch

from qlora_kernels.checks import InputError, check_dtype, check_shapes
from qlora_kernels.formats.blockwise8 import num_blocks

PARAMETER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Hyperparameters(NamedTuple):
    """The numbers of one update, as torch.optim.AdamW names them."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive elements of one parameter and their states, all flat and contiguous.

    parameter: [n], float32, bfloat16 or float16. exp_avg, exp_avg_sq: float32 [n], or uint8 codes
    with exp_avg_absmax, exp_avg_sq_absmax float32 [ceil(n / 256)] (formats/blockwise8.py). master:
    float32 [n], of which a 16-bit parameter is the rounded copy, or None. step: float32 [], which
    step this one is, counted from 1: who calls the op advances it.

    A segment starts at a multiple of 256 elements of its parameter, so that no block straddles.
    Made once and used for many steps. Raises InputError for shapes, dtypes and devices that do not
    fit.
    """

    parameter: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: torch.Tensor
    exp_avg_absmax: torch.Tensor | None = None
    exp_avg_sq_absmax: torch.Tensor | None = None
    master: torch.Tensor | None = None

    def __post_init__(self) -> None:
        op = "adamw segment"
        size, blocks = self.size, num_blocks(self.size)
        check_shapes(
            op,
            {"n": size, "blocks": blocks},
            parameter=(self.parameter, "n"),
            exp_avg=(self.exp_avg, "n"),
            exp_avg_sq=(self.exp_avg_sq, "n"),
            master=(self.master, "n"),
            exp_avg_absmax=(self.exp_avg_absmax, "blocks"),
            exp_avg_sq_absmax=(self.exp_avg_sq_absmax, "blocks"),
        )
        check_dtype(op, "parameter", self.parameter, PARAMETER_DTYPES)
        state = torch.uint8 if self.is_quantized else torch.float32
        check_dtype(op, "exp_avg", self.exp_avg, [state])
        check_dtype(op, "exp_avg_sq", self.exp_avg_sq, [state])
        if (self.exp_avg_sq_absmax is not None) != self.is_quantized:
            raise InputError(f"{op}: the states should both have an absmax or neither, one had")
        if self.master is not None and self.parameter.dtype == torch.float32:
            raise InputError(f"{op}: master should be None for a float32 parameter, was a tensor")
        for name in (field.name for field in fields(self)):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if name in ("step", "master", "exp_avg_absmax", "exp_avg_sq_absmax"):
                check_dtype(op, name, tensor, [torch.float32])
            if tensor.device != self.device:
                raise InputError(f"{op}: {name} should be on {self.device}, was on {tensor.device}")
            if not tensor.is_contiguous():
                raise InputError(f"{op}: {name} should be contiguous, was strided")

    @property
    def is_quantized(self) -> bool:
        """Whether the states are 8-bit codes."""
        return self.exp_avg_absmax is not None

    # Each step asks for these, and by then a tensor's own answer is in no cache of the processor.
    @cached_property
    def size(self) -> int:
        """n."""
        return self.parameter.numel()

    @cached_property
    def device(self) -> torch.device:
        """Where all of it lies."""
        return self.parameter.device


class InFile(NamedTuple):
    """Where the states of segments are that are not in their tensors, but in a file.

    descriptor: the file's. room: uint8 [bytes], memory through which threads take the states of a
    few blocks at a time, and at least those of one. shifts: for each segment None, or what an
    address of its states is to be moved by to be their place in the file.
    """

    descriptor: int
    room: torch.Tensor
    shifts: list[int | None]


class Guard(NamedTuple):
    """What a step is guarded by, beside its own check that all gradients are finite.

    max_norm: None does not clip. grad_scale, found_inf: of one element each, or None, as
    torch.amp.GradScaler hands them over.
    """

    max_norm: float | None = None
    grad_scale: torch.Tensor | None = None
    found_inf: torch.Tensor | None = None


class Gate(NamedTuple):
    """What the first pass over the gradients decided, as float32 tensors [] that nobody waits for.

    norm: of all gradients, unscaled, before clipping. scale: what each gradient is multiplied by:
    unscaling and clipping in one. skip: not 0 where the step must change nothing.
    """

    norm: torch.Tensor
    scale: torch.Tensor
    skip: torch.Tensor

    @classmethod
    def open(cls, device: torch.device) -> "Gate":
        """Lets all through as it is, without a pass over the gradients: the norm is unknown."""
        return cls(*(torch.full((), value, device=device) for value in (float("nan"), 1.0, 0.0)))

    def to(self, device: torch.device) -> "Gate":
        """The same for the segments of another device."""
        return Gate(*(t.to(device, non_blocking=True) for t in self))
