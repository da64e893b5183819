"""AdamW on NVIDIA GPUs: one Triton launch for all segments of the same dtypes; nobody waits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache

import torch

from qlora_kernels.formats.blockwise8 import BLOCK, thresholds
from qlora_kernels.formats.codebooks import dynamic_map
from qlora_kernels.gpu.availability import misplaced
from qlora_kernels.gpu.compile_case import CompileCase
from qlora_kernels.gpu.launch import TRITON_TYPES, launch
from qlora_kernels.ops.adamw.segment import Gate, Hyperparameters, Segment
from qlora_kernels.ops.adamw.triton_table import (
    ROWS,
    addresses,
    aligned,
    chunk_table,
    numbers,
    on_device,
)

BACKEND = "triton"

_NUM_WARPS = 4


def refuses(*arguments: Sequence[torch.Tensor]) -> str | None:
    """Takes everything on an NVIDIA GPU; the last argument is the list of gradients."""
    gradients = arguments[-1]
    return misplaced("a gradient", gradients[0]) if gradients else None


def adamw_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """The formula of op.py, for all segments of the same dtypes at once."""
    groups: dict[tuple[torch.dtype, torch.dtype], list[int]] = defaultdict(list)
    for i, (segment, gradient) in enumerate(zip(segments, gradients, strict=True)):
        groups[segment.parameter.dtype, gradient.dtype].append(i)
    for indices in groups.values():
        _step(
            [segments[i] for i in indices],
            [gradients[i] for i in indices],
            [hyper[i] for i in indices],
            gate,
        )


def _step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    from qlora_kernels.ops.adamw.triton_device import DTYPES, adamw_kernel

    device = segments[0].device
    rows = [addresses(s, g) for s, g in zip(segments, gradients, strict=True)]
    sizes = tuple(segment.size for segment in segments)
    work = chunk_table(sizes, device)
    launch(
        adamw_kernel,
        (len(work),),
        device,
        on_device(rows, torch.int64, device),
        on_device(sizes, torch.int64, device),
        on_device([numbers(h) for h in hyper], torch.float64, device),
        work,
        *(dynamic_map(device, signed) for signed in (True, False)),
        *(rounded_thresholds(device, signed) for signed in (True, False)),
        *(gate.scale, gate.skip),
        PARAMETER=DTYPES[segments[0].parameter.dtype],
        GRADIENT=DTYPES[gradients[0].dtype],
        ALIGNED=aligned(rows, sizes),
        ROWS=ROWS,
        num_warps=_NUM_WARPS,
    )


def squared_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares, float64 []: finite exactly where every gradient is."""
    groups: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    for gradient in gradients:
        groups[gradient.dtype].append(gradient)
    return torch.cat([_squares(group) for group in groups.values()]).sum()


def _squares(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sums of squares of ROWS blocks each, in the order of the gradients."""
    from qlora_kernels.ops.adamw.triton_device import DTYPES, squares_kernel

    device = gradients[0].device
    pointers = [gradient.data_ptr() for gradient in gradients]
    sizes = tuple(gradient.numel() for gradient in gradients)
    work = chunk_table(sizes, device)
    partial = torch.empty(len(work), dtype=torch.float64, device=device)
    launch(
        squares_kernel,
        (len(partial),),
        device,
        on_device(pointers, torch.int64, device),
        on_device(sizes, torch.int64, device),
        work,
        partial,
        GRADIENT=DTYPES[gradients[0].dtype],
        ALIGNED=not any(value % 16 for value in (*pointers, *sizes)),
        ROWS=ROWS,
        num_warps=_NUM_WARPS,
    )
    return partial


@cache
def rounded_thresholds(device: torch.device, signed: bool) -> torch.Tensor:
    """The float64 thresholds rounded down: what is above them in float32 is the same."""
    exact = thresholds(torch.device("cpu"), signed)
    below = exact.float()
    lower = torch.nextafter(below, torch.full_like(below, -torch.inf))
    return torch.where(below.double() > exact, lower, below).to(device)


def compile_cases() -> Iterator[CompileCase]:
    """The dtypes that models train in, aligned and not; and the squares of each."""
    from qlora_kernels.ops.adamw.triton_device import DTYPES, adamw_kernel, squares_kernel

    tables = {"table": "*i64", "sizes": "*i64"}
    work = {"chunks": "*i32"}
    floats = ("signed_values", "unsigned_values", "signed_thresholds", "unsigned_thresholds")
    step = tables | {"numbers": "*fp64"} | work | dict.fromkeys((*floats, "scale", "skip"), "*fp32")
    pairs = [(dtype, dtype, True) for dtype in DTYPES] + [
        (torch.bfloat16, torch.float32, True),
        (torch.float32, torch.float32, False),
    ]
    for parameter, gradient, is_aligned in pairs:
        constants = {
            "PARAMETER": DTYPES[parameter],
            "GRADIENT": DTYPES[gradient],
            "ALIGNED": is_aligned,
            "ROWS": ROWS,
        }
        names = f"{TRITON_TYPES[parameter]} parameters, {TRITON_TYPES[gradient]} gradients"
        names += "" if is_aligned else ", unaligned"
        # Parameters and both 8-bit states are read and written, gradients read; no master.
        moved = ROWS * BLOCK * (2 * parameter.itemsize + gradient.itemsize + 2 * 2)
        yield _case(adamw_kernel, names, step, constants, moved)
    for gradient in DTYPES:
        constants = {"GRADIENT": DTYPES[gradient], "ALIGNED": True, "ROWS": ROWS}
        signature = tables | work | {"partial": "*fp64"}
        names = f"{TRITON_TYPES[gradient]} gradients"
        moved = ROWS * BLOCK * gradient.itemsize
        yield _case(squares_kernel, names, signature, constants, moved)


def _case(
    kernel: object,
    description: str,
    signature: dict[str, str],
    constants: dict[str, object],
    moved_bytes: int,
) -> CompileCase:
    return CompileCase(
        "adamw",
        description,
        kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        constants,
        num_warps=_NUM_WARPS,
        aligned=tuple(signature),
        moved_bytes=moved_bytes,
    )
