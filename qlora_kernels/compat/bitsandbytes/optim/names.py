"""The state of a parameter under bitsandbytes' names, in memory and in files.

    here                    there
    exp_avg, exp_avg_sq     state1, state2: float32, or uint8 codes of the same dynamic maps
    exp_avg_absmax, ...     absmax1, absmax2, float32, one for a block of 256
    (the maps themselves)   qmap1, qmap2, float32 [256]

In a file those stand in a dict of their own beside `step`, so that FSDP does not gather them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from qlora_kernels.formats.codebooks import dynamic_map, is_map

_WRAPPED = "__bnb_optimizer_quant_state__"
_OURS = {
    "state1": "exp_avg",
    "state2": "exp_avg_sq",
    "absmax1": "exp_avg_absmax",
    "absmax2": "exp_avg_sq_absmax",
}
_MAPS = {"qmap1": ("absmax1", True), "qmap2": ("absmax2", False)}


class NamedState(dict[str, Any]):
    """A parameter's state as it is kept, which answers to bitsandbytes' names as well.

    What is in pages is copied out of them each time it is asked for: changing it changes nothing.
    """

    read: Callable[[], Mapping[str, Any]] | None = None  # what the pages hold

    def __missing__(self, name: str) -> Any:
        if name in _MAPS:
            absmax, signed = _MAPS[name]
            return dynamic_map(self[absmax].device, signed)
        if name in _OURS:
            return self[_OURS[name]]
        return (self.read() if self.read else {})[name]  # KeyError for any other

    def __reduce__(self) -> Any:
        return NamedState, (dict(self),)  # a copied optimizer has pages of its own


def to_file(state: Mapping[str, Any]) -> dict[str, Any]:
    """As bitsandbytes writes the state of one parameter."""
    parts = {theirs: state[name] for theirs, name in _OURS.items() if name in state}
    for name, (absmax, signed) in _MAPS.items():
        if absmax in parts:
            parts[name] = dynamic_map(parts[absmax].device, signed).clone()
    return {"step": int(state["step"]), _WRAPPED: parts}


def from_file(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What bitsandbytes, this package or `qk.optim.AdamW` wrote, under the names here.

    Raises ValueError for codes of other maps; the last bits of a map do not matter (`is_map`).
    """
    parts = {**stored, **stored.get(_WRAPPED, {})}
    for name, (_, signed) in _MAPS.items():
        if name in parts and not is_map(parts[name], dynamic_map(_CPU, signed)):
            raise ValueError(f"load_state_dict: {name} should be the dynamic map, was another")
    names = {ours: theirs for theirs, ours in _OURS.items()}
    found = {ours: parts[theirs] for ours, theirs in names.items() if theirs in parts}
    kept = {name: value for name, value in stored.items() if name != _WRAPPED}
    kept = {name: value for name, value in kept.items() if name not in {*_OURS, *_MAPS}}
    return {**kept, **found, "step": torch.tensor(float(stored["step"]))}


_CPU = torch.device("cpu")
