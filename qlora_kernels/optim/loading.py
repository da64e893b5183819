"""Between torch's load_state_dict, its checks and hooks, and states that it must not cast."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from qlora_kernels.checks import InputError
from qlora_kernels.optim.settings import REFUSED
from qlora_kernels.optim.sharded import local, localized
from qlora_kernels.optim.stored import check_stored

Stored = Mapping[str, Any]
OURS = ("bits",)  # of a group: how states are kept is not the file's to say


def load(
    optimizer: Optimizer,
    torch_load: Callable[[], None],
    keep: Callable[[Mapping[Tensor, Stored]], None],
) -> None:
    """Let torch load all but the states; `keep` gets those, by parameter.

    torch would cast them to the dtype of the parameter. Hooks of others see what they always see.
    """
    taken: dict[Tensor, Stored] = {}

    def take(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        groups = given["param_groups"]
        known = optimizer.param_groups
        pairs = [
            (number, parameter)
            for theirs, ours in zip(groups, known, strict=False)
            for number, parameter in zip(theirs["params"], ours["params"], strict=False)
        ]
        for number, parameter in pairs:
            if stored := given["state"].get(number):
                mine = localized(stored, parameter)
                check_stored(number, local(parameter), mine)
                taken[parameter] = mine
        return {**given, "state": {}, "param_groups": _groups(groups, known)}

    def give(_: Optimizer) -> None:
        keep(taken)

    handles = [
        optimizer.register_load_state_dict_pre_hook(take),
        optimizer.register_load_state_dict_post_hook(give, prepend=True),
    ]
    try:
        torch_load()
    finally:
        for handle in handles:
            handle.remove()


def _groups(given: list[dict[str, Any]], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The file's groups, with ours for what it does not say and for what is not its to say."""
    merged = []
    for number, group in enumerate(given):
        for name in REFUSED:
            if group.get(name):
                raise InputError(f"AdamW: {name} of group {number} should be False, was True")
        ours = known[number] if number < len(known) else {}
        kept = {name: ours[name] for name in OURS if name in ours}
        merged.append({**ours, **group, **kept, "params": group["params"]})
    return merged
