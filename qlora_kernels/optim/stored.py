"""States from a file, whoever wrote them, as an optimizer keeps them.

    file      kept      rule
    32-bit    8-bit     encoded, as the end of a step would: exact nearest codes per block
    8-bit     32-bit    decoded: exactly the values that the codes stand for
    the same  the same  the same bits
    16-bit    32-bit    widened (torch keeps the moments of 16-bit parameters in 16 bits)

A master comes from the file, or from the parameter where the file has none; it is left out where
none is kept. How states are kept is the optimizer's own matter, all else is the file's.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.checks import InputError
from qlora_kernels.formats.blockwise8 import decode, encode, num_blocks
from qlora_kernels.optim.sharded import as_sharded, local, localized

State = dict[str, Tensor]
MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))


def check_stored(number: int, parameter: Tensor, stored: Mapping[str, Any]) -> None:
    """Refuse what is no AdamW state of this parameter."""
    blocks = (num_blocks(parameter.numel()),)
    shapes: dict[str, tuple[int, ...]] = {"exp_avg": (*parameter.shape,), "step": ()}
    shapes["exp_avg_sq"] = shapes["exp_avg"]
    for name, _ in MOMENTS:
        if torch.is_tensor(stored.get(name)) and stored[name].dtype == torch.uint8:
            shapes[f"{name}_absmax"] = blocks
    if "master" in stored:
        shapes["master"] = shapes["exp_avg"]
    for name, shape in shapes.items():
        if name not in stored:
            raise InputError(
                f"AdamW: the state of parameter {number} should have {name}, has"
                f" {', '.join(map(str, stored)) or 'nothing'}"
            )
        was = tuple(torch.as_tensor(stored[name]).shape)
        if was != shape and not (name == "step" and was == (1,)):
            raise InputError(
                f"AdamW: {name} of parameter {number} should be {list(shape)}, was {list(was)}"
            )
    if "max_exp_avg_sq" in stored:
        raise InputError(
            f"AdamW: the state of parameter {number} should come without amsgrad, was with it"
        )


def fitted(stored: Mapping[str, Any], parameter: Tensor, bits: int, master: bool) -> State:
    """A checked state as this parameter keeps it, a copy on the device of what was stored."""
    state: State = {}
    for name, signed in MOMENTS:
        moment, scales = stored[name].detach(), f"{name}_absmax"
        if moment.dtype != torch.uint8 and bits == 32:
            state[name] = moment.to(torch.float32, copy=True)
        elif moment.dtype != torch.uint8:
            codes, state[scales] = encode(moment.float().reshape(-1), signed)
            state[name] = codes.view(moment.shape)
        elif bits == 8:
            state[name], state[scales] = moment.clone(), stored[scales].detach().clone()
        else:
            values = decode(moment.reshape(-1), stored[scales], signed)
            state[name] = values.view(moment.shape)
    if master:
        source = stored.get("master", parameter)
        state["master"] = source.detach().to(torch.float32, copy=True)
    return state


def as_32_bit(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of qk.optim.AdamW with all states decoded: torch.optim.AdamW loads it.

    `value = map[code] * absmax[block]` for codes, everything else is kept; float32 masters are left
    out, since torch would take them for states of its own. Raises nothing for 32-bit ones.
    """
    states = {}
    for key, stored in state_dict["state"].items():
        like = stored["exp_avg"]  # sharded as the parameter is
        plain = fitted(localized(stored, like), local(like), bits=32, master=False)
        step = torch.as_tensor(stored["step"]).clone()
        states[key] = {"step": step, **as_sharded(like, plain)}
    groups = [copy(group) for group in state_dict["param_groups"]]
    for group in groups:
        group.pop("bits", None)
    return {**state_dict, "state": states, "param_groups": groups}
