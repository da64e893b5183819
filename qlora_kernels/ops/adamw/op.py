"""One AdamW step over many parameters at once, with 32-bit or 8-bit states.

    g = gradient * gate.scale
    p = p (1 - lr weight_decay)
    m = m + (1 - beta1) (g - m)                    exp_avg
    v = beta2 v + (1 - beta2) g^2                  exp_avg_sq
    p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

in float32, in the order and with the fused multiply-adds of torch.optim.AdamW(fused=True) on a CPU:
over 32-bit states the same bits (AdamW, arXiv 1711.05101). 8-bit states are decoded, updated, used
as they are and only then encoded again (formats/blockwise8.py). p is the parameter, or its float32
master, of which the parameter becomes the rounded copy.

The gate needs all gradients first, since one bad gradient anywhere stops all of the step:

    norm  = |gradients| / grad_scale
    scale = min(1, max_norm / (norm + 1e-6)) / grad_scale
    skip  = found_inf, or a gradient that is not finite
"""

from collections.abc import Callable, Sequence

import torch

from qlora_kernels.checks import InputError, check_dtype
from qlora_kernels.dispatch import Room, may_run
from qlora_kernels.ops.adamw import cuda_kernel, native_kernel, reference, triton_kernel
from qlora_kernels.ops.adamw.segment import (
    PARAMETER_DTYPES,
    Gate,
    Guard,
    Hyperparameters,
    InFile,
    Segment,
)

STEP = Room("adamw_step", native_kernel, cuda_kernel, triton_kernel, reference)
GATE = Room("gradient_gate", native_kernel, cuda_kernel, triton_kernel, reference)

_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def adamw_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """Update parameters and states in place (formula at the top of this file).

    gradients: n elements in any shape for each segment, contiguous, float32, bfloat16 or float16,
    on its device. hyper: one for each segment. Everything is on one device. Where gate.skip is not
    0 nothing changes.

    Raises InputError for lists, shapes or dtypes that do not fit.
    """
    if not _check("adamw_step", segments, gradients, hyper):
        return
    STEP.choose(segments, gradients).adamw_step(segments, gradients, hyper, gate)


def takes_files(device: torch.device) -> bool:
    """Whether `adamw_step_in_file` runs there."""
    return device.type == "cpu" and may_run(native_kernel.BACKEND)


def adamw_step_in_file(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
    file: InFile,
) -> int:
    """`adamw_step` where states of some segments are in a file, to be read and written there.

    On devices of which `takes_files` says so. Returns how often a thread waited for the disk.
    Raises InputError as adamw_step does, and OSError where the file fails: some blocks have been
    updated then and others not.
    """
    op = "adamw_step_in_file"
    if len(file.shifts) != len(segments):
        lengths = f"{len(segments)} and {len(file.shifts)}"
        raise InputError(f"{op}: segments and shifts should be equally many, were {lengths}")
    if not _check(op, segments, gradients, hyper):
        return 0
    if not takes_files(segments[0].device):
        raise InputError(f"{op}: should run the backend {native_kernel.BACKEND}, was refused")
    return native_kernel.adamw_step_in_file(segments, gradients, hyper, gate, file)


def guarded_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    guard: Guard | None,
) -> Gate:
    """`gradient_gate`, one more on every segment's step unless it says skip, and `adamw_step`.

    Without a guard the gate is open. In one launch or pass where the backend has one for it:
    `guarded_step` for all of it, `counted_step` for the last two. Segments have at least one
    element between them and each a step of its own: the number of steps taken before this one.
    Returns the gate.

    Raises InputError as adamw_step does, and for no segments.
    """
    op = "guarded_step"
    if not _check(op, segments, gradients, hyper):
        raise InputError(f"{op}: segments should be at least one, were none")
    kernel = STEP.choose(segments, gradients)
    if guard is not None and hasattr(kernel, "guarded_step"):
        gate: Gate = kernel.guarded_step(segments, gradients, hyper, guard)
        return gate
    gate = Gate.open(segments[0].device) if guard is None else gradient_gate(gradients, *guard)
    if hasattr(kernel, "counted_step"):
        kernel.counted_step(segments, gradients, hyper, gate)
    else:
        count_steps([segment.step for segment in segments], gate)
        kernel.adamw_step(segments, gradients, hyper, gate)
    return gate


def count_steps(steps: Sequence[torch.Tensor], gate: Gate) -> None:
    """One more on each, unless the gate says skip."""
    # Without alpha torch takes the addend for a number, and waits for the GPU to tell it.
    torch._foreach_add_(list(steps), 1.0 - gate.skip, alpha=1)


def _check(
    op: str,
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
) -> bool:
    """Whether there are any; InputError where lists, shapes, dtypes or devices do not fit."""
    if not len(segments) == len(gradients) == len(hyper):
        lengths = f"{len(segments)}, {len(gradients)} and {len(hyper)}"
        raise InputError(f"{op}: segments, gradients, hyper should be equally many, were {lengths}")
    if not segments:
        return False
    device = segments[0].device
    for segment, gradient in zip(segments, gradients, strict=True):
        if gradient.numel() != segment.size:
            was = list(gradient.shape)
            raise InputError(f"{op}: gradient should have {segment.size} elements, was {was}")
        if gradient.dtype not in PARAMETER_DTYPES:
            check_dtype(op, "gradient", gradient, PARAMETER_DTYPES)
        if gradient.device != device or segment.device != device:
            raise InputError(f"{op}: everything should be on {device}, was on several devices")
    return True


def gradient_gate(
    gradients: Sequence[torch.Tensor],
    max_norm: float | None = None,
    grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
    total: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Gate:
    """The norm of all gradients, and what follows from it (formula at the top of this file).

    gradients: float32, bfloat16 or float16, contiguous; the gate is on the first one's device.
    max_norm: None does not clip. grad_scale, found_inf: of one element each, as
    torch.amp.GradScaler hands them over. total: for gradients that are shards, makes the sum of
    squares of this process one over all.
    """
    for gradient in gradients:
        if gradient.dtype not in PARAMETER_DTYPES:
            check_dtype("gradient_gate", "gradient", gradient, PARAMETER_DTYPES)
    squared = _squared_norm(gradients)
    if total is not None:
        squared = total(squared)
    skip = ~squared.isfinite()
    if found_inf is not None:
        skip = skip | (found_inf.to(skip.device).view(()) != 0)
    scale = torch.ones_like(squared)
    if grad_scale is not None:
        scale = scale / grad_scale.to(squared.device).view(())
    norm = squared.sqrt() * scale
    if max_norm is not None:
        scale = scale * (max_norm / (norm + _EPSILON)).clamp(max=1.0)
    return Gate(norm.float(), scale.float(), skip.float())


def _squared_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares, float64 [], on the device of the first."""
    devices = dict.fromkeys(g.device for g in gradients)
    parts = [[g for g in gradients if g.device == device] for device in devices]
    sums = [GATE.choose(part).squared_norm(part) for part in parts]
    return torch.stack([s.to(sums[0].device) for s in sums]).sum()
