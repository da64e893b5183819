"""An AdamW's states in pages: which parameter has which, and segments over the pages of a step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.checks import InputError
from qlora_kernels.formats.blockwise8 import BLOCK, zero_code
from qlora_kernels.ops.adamw import (
    Gate,
    Hyperparameters,
    Segment,
    adamw_step,
    adamw_step_in_file,
    takes_files,
)
from qlora_kernels.optim.paging import (
    PagedStates,
    Piece,
    Run,
    StateArray,
    Work,
    WorkInFile,
    run_bytes,
    smallest_budget,
)
from qlora_kernels.optim.settings import Settings
from qlora_kernels.optim.sharded import local

State = dict[str, Tensor]
Update = tuple[Tensor, Tensor, Hyperparameters]  # parameter, contiguous gradient, numbers


@dataclass(eq=False)
class PagedParameter:
    """A parameter whose states are in pages; its step is an ordinary tensor."""

    parameter: Tensor
    step: Tensor
    bits: int
    master: bool
    number: int = -1
    begun: bool = False  # its pages hold its states

    @property
    def device(self) -> torch.device:
        """Where it is updated."""
        return self.parameter.device


class DevicePages:
    """The paged parameters of one device."""

    def __init__(self, device: torch.device, settings: Settings) -> None:
        """No parameters yet."""
        place = None if settings.page_file is None else Path(settings.page_file)
        self.states = PagedStates(device, settings.memory_budget, place)
        self.states.before_move = self._forget
        self._parameters: list[PagedParameter] = []  # by number
        self._segments: dict[tuple[int, int], Segment] = {}

    def add(self, parameters: Sequence[PagedParameter]) -> None:
        """Places for the states of parameters."""
        tensors = [(local(p.parameter).numel(), state_arrays(p.bits, p.master)) for p in parameters]
        for parameter, number in zip(parameters, self.states.add(tensors), strict=True):
            parameter.number = number
            self._parameters.append(parameter)

    def update(
        self,
        parameters: Sequence[PagedParameter],
        gradients: Sequence[Tensor],
        hyper: Sequence[Hyperparameters],
        gate: Gate,
    ) -> None:
        """One step: `adamw_step` over the pages, one after the other as they come, or over all at
        once where a kernel takes those of a file by itself."""
        updates = {
            p.number: (local(p.parameter), gradient, numbers)
            for p, gradient, numbers in zip(parameters, gradients, hyper, strict=True)
        }
        step = self._stepping(updates, gate)
        if takes_files(gate.skip.device) and all(parameter.begun for parameter in parameters):
            if gate.skip == 0:
                self.states.update(updates, step, self._stepping_in_file(updates, gate))
            return
        self.states.update(updates, step)
        for parameter in parameters:
            parameter.begun = True

    def read(self, parameters: Sequence[PagedParameter]) -> list[State]:
        """Copies of their states, flat."""
        found = self.states.read([parameter.number for parameter in parameters])
        return [found[parameter.number] for parameter in parameters]

    def write(self, parameter: PagedParameter, states: State) -> None:
        """Take over states as `read` gives them."""
        self.states.write({parameter.number: states})
        parameter.begun = True

    def _stepping(self, updates: Mapping[int, Update], gate: Gate) -> Work:
        return lambda pieces: adamw_step(*self._segments_of(pieces, updates), gate)

    def _stepping_in_file(self, updates: Mapping[int, Update], gate: Gate) -> WorkInFile:
        return lambda pieces, file: adamw_step_in_file(
            *self._segments_of(pieces, updates), gate, file
        )

    def _segments_of(
        self, pieces: list[Piece], updates: Mapping[int, Update]
    ) -> tuple[list[Segment], list[Tensor], list[Hyperparameters]]:
        segments, gradients, hyper = [], [], []
        for run, states in pieces:
            parameter, gradient, numbers = updates[run.tensor]
            segments.append(self._segment(run, states, parameter))
            gradients.append(_part(gradient, run))
            hyper.append(numbers)
        return segments, gradients, hyper

    def _segment(self, run: Run, states: State, parameter: Tensor) -> Segment:
        """Made once for a run, until its parameter or all frames move."""
        owner = self._parameters[run.tensor]
        if owner.master and not owner.begun:
            states["master"].copy_(_part(parameter.detach().view(-1), run))
        segment = self._segments.get((run.tensor, run.start))
        place = parameter.data_ptr() + run.start * parameter.itemsize
        if segment is None or segment.parameter.data_ptr() != place:
            part = _part(parameter.detach().view(-1), run)
            segment = Segment(part, step=owner.step, **states)
            self._segments[run.tensor, run.start] = segment
        return segment

    def _forget(self) -> None:
        self._segments.clear()


def _part(tensor: Tensor, run: Run) -> Tensor:
    """The run's elements of a contiguous tensor; most are all, and a view takes a microsecond."""
    whole = run.count == tensor.numel()
    return tensor if whole else tensor.view(-1)[run.start : run.start + run.count]


class Pages:
    """All paged parameters of an optimizer."""

    def __init__(self, settings: Settings) -> None:
        """None yet; nothing is allocated."""
        self._settings = settings
        self._devices: dict[torch.device, DevicePages] = {}
        self._parameters: dict[Tensor, PagedParameter] = {}

    def add(self, parameters: Iterable[PagedParameter]) -> None:
        """Places for those that have none yet, side by side."""
        added = [p for p in parameters if p.parameter not in self._parameters]
        for device in dict.fromkeys(p.device for p in added):
            if device not in self._devices:
                self._devices[device] = DevicePages(device, self._settings)
            self._devices[device].add([p for p in added if p.device == device])
        self._parameters.update({p.parameter: p for p in added})
        for pages in self._devices.values():
            pages.states.prepare()

    def __getitem__(self, parameter: Tensor) -> PagedParameter:
        return self._parameters[parameter]

    def __contains__(self, parameter: Tensor) -> bool:
        return parameter in self._parameters

    def awaits(self, parameter: Tensor) -> bool:
        """Whether a parameter has places for states and no states: its first step was refused."""
        return parameter in self and not self[parameter].begun

    def update(
        self,
        parameters: Sequence[PagedParameter],
        gradients: Sequence[Tensor],
        hyper: Sequence[Hyperparameters],
        gate: Gate,
    ) -> None:
        """One step over parameters of one device."""
        self._devices[parameters[0].device].update(parameters, gradients, hyper, gate)

    def read(self, parameters: Iterable[Tensor] | None = None) -> dict[Tensor, State]:
        """Copies of their states, by default all, in the parameters' shapes, on the CPU."""
        found = {}
        wanted = [self[p] for p in (self._parameters if parameters is None else parameters)]
        for device, pages in self._devices.items():
            owners = [p for p in wanted if p.device == device and p.begun]
            for owner, states in zip(owners, pages.read(owners), strict=True):
                found[owner.parameter] = {
                    name: states[name] if name.endswith("_absmax") else states[name].view(shape)
                    for shape in (local(owner.parameter).shape,)
                    for name in states
                }
        return found

    def write(self, parameter: Tensor, states: State) -> None:
        """Take over the states of one parameter as `read` gives them."""
        owner = self._parameters[parameter]
        flat = {name: tensor.reshape(-1) for name, tensor in states.items()}
        self._devices[owner.device].write(owner, flat)

    def make_room(self) -> None:
        """Give up what frames can be given up."""
        for pages in self._devices.values():
            pages.states.make_room()

    def stats(self) -> list[dict[str, Any]]:
        """Of each device."""
        return [pages.states.stats() for pages in self._devices.values()]


def check_budget(group: Mapping[str, Any], settings: Settings) -> None:
    """Refuse a budget too small for pages of these parameters, before any state is made."""
    arrays = [arrays_for(p, group["bits"], settings) for p in group["params"]]
    smallest, budget = smallest_budget(arrays), settings.memory_budget
    if budget is not None and budget < smallest:
        raise InputError(
            f"AdamW: memory_budget should be at least {smallest} bytes, four pages of 256 elements,"
            f" was {budget}"
        )


def stats_of(pages: Pages, state: Mapping[Tensor, State]) -> dict[str, Any]:
    """What all devices did, added up; the states outside pages count as resident."""
    unpaged = sum(
        tensor.nbytes
        for parameter, states in state.items()
        if parameter not in pages
        for tensor in states.values()
    )
    tiers = {"device": unpaged, "host": 0, "file": 0}
    total = {"state_bytes": unpaged, "page_bytes": 0, "pages": 0, "resident_bytes": tiers}
    total |= {"peak_resident_bytes": unpaged, "copies": 0, "copies_in": 0, "copies_out": 0}
    total |= {"stalls": 0, "evictions": 0}
    for stats in pages.stats():
        for tier, count in stats.pop("resident_bytes").items():
            tiers[tier] += count
        total["page_bytes"] = stats.pop("page_bytes")
        for name, count in stats.items():
            total[name] += count
    return total


def state_bytes(parameters: Iterable[Tensor], bits: int = 32, **options: Any) -> int:
    """Bytes of the states that qk.optim.AdamW(parameters, bits=bits, **options) will have.

    Steps and what pages leave unused are not counted. Raises InputError for unknown options.
    """
    settings = Settings.of({"bits": bits, **options})
    return sum(run_bytes(arrays_for(p, bits, settings), local(p).numel()) for p in parameters)


def arrays_for(parameter: Tensor, bits: int, settings: Settings) -> tuple[StateArray, ...]:
    """The states of a parameter in an optimizer of these bits and settings."""
    return state_arrays(settings.bits_of(parameter, bits), settings.has_master(parameter))


def state_arrays(bits: int, master: bool) -> tuple[StateArray, ...]:
    """The states of one parameter, as `new_state` makes them, but for the master's values."""
    arrays = []
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        if bits == 8:
            arrays.append(StateArray(name, torch.uint8, initial=zero_code(signed)))
            arrays.append(StateArray(f"{name}_absmax", torch.float32, BLOCK))
        else:
            arrays.append(StateArray(name, torch.float32))
    if master:
        arrays.append(StateArray("master", torch.float32))
    return tuple(arrays)
