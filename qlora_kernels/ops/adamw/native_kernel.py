"""`adamw_step` and `gradient_gate` by the native CPU kernels, which take all segments at once."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from qlora_kernels import native
from qlora_kernels.ops.adamw.segment import Gate, Hyperparameters, InFile, Segment

BACKEND = "cpu"

# A segment lasts for many steps; reading its pointers costs more than updating a small one.
_views: "WeakKeyDictionary[Segment, Any]" = WeakKeyDictionary()


def refuses(*arguments: Sequence[torch.Tensor]) -> str | None:
    """Takes everything on the CPU; the last argument is the list of gradients."""
    device = arguments[-1][0].device
    return None if device.type == "cpu" else f"a gradient is on {device}"


def squared_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of all squares, float64 []: finite exactly where every gradient is."""
    found = native.cpu().squared_norm(list(gradients), torch.get_num_threads())
    return torch.tensor(found, dtype=torch.float64)


def adamw_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """The formula of op.py, in one pass over all segments."""
    _step("adamw_step", segments, gradients, hyper, gate)


def counted_step(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
) -> None:
    """The same, one more on every segment's step before."""
    _step("counted_adamw_step", segments, gradients, hyper, gate)


def adamw_step_in_file(
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
    file: InFile,
) -> int:
    """The same; each thread copies the states that it updates, so that they are in its caches."""
    waits: int | None = _step("adamw_step_in_file", segments, gradients, hyper, gate, file)
    return waits or 0


def _step(
    name: str,
    segments: Sequence[Segment],
    gradients: Sequence[torch.Tensor],
    hyper: Sequence[Hyperparameters],
    gate: Gate,
    *more: object,
) -> Any:
    """What the kernel of that name returns; None where the gate says skip."""
    if gate.skip != 0:
        return None
    work = list(zip(map(_view, segments), gradients, hyper, strict=True))
    kernel = getattr(native.cpu(), name)
    return kernel(native.state_maps(), work, gate.scale.item(), *more, torch.get_num_threads())


def _view(segment: Segment) -> Any:
    view = _views.get(segment)
    if view is None:
        view = _views[segment] = native.cpu().SegmentView(segment)
    return view
