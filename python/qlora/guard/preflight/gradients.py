"""Which parameters a backward pass leaves without a gradient, and which of them should have one."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import Parameter

from qlora_kernels.errors import InputError

NAMED = 3  # modules in a message


@dataclass
class Received:
    """What parameters got over some backward passes; a reason for each that got nothing.

    In `s B A x` one factor starts at zero, so the other's gradient is zero until the first step:
    that is right, as long as the one at zero gets a gradient itself. `partner(name)` is the other
    factor of a parameter, or None.
    """

    parameters: Mapping[str, Parameter]
    partner: Callable[[str], str | None]
    optimized: Collection[int]  # id of what an optimizer changes
    _has: set[str] = field(default_factory=set)

    def note(self) -> None:
        """Look at the gradients of now."""
        self._has |= {name for name, p in self.parameters.items() if _is_some(p.grad)}

    @property
    def missing(self) -> dict[str, str]:
        """Name -> why it will not learn."""
        reasons = {name: self._reason(name) for name in self.parameters}
        return {name: reason for name, reason in reasons.items() if reason}

    @property
    def count(self) -> int:
        """Parameters that got a gradient."""
        return len(self._has)

    def _reason(self, name: str) -> str | None:
        parameter = self.parameters[name]
        if not parameter.requires_grad:
            return "frozen: requires_grad is False"
        if id(parameter) not in self.optimized:
            return "no optimizer changes it"
        if name in self._has or self._waits(name):
            return None
        return "the loss does not reach it" if parameter.grad is None else "its gradient is 0"

    def _waits(self, name: str) -> bool:
        other = self.partner(name)
        if other is None or other not in self._has:
            return False
        return not self.parameters[other].detach().any()


def refuse_missing(received: Received) -> None:
    """Raise InputError, naming modules, where a parameter will not learn."""
    missing = received.missing
    if not missing:
        return
    modules: dict[str, str] = {}
    for name, reason in missing.items():
        modules.setdefault(name.rpartition(".")[0] or name, reason)
    named = ", ".join(f"{name} ({reason})" for name, reason in list(modules.items())[:NAMED])
    more = f" and {len(modules) - NAMED} more" if len(modules) > NAMED else ""
    raise InputError(
        f"preflight: all {len(received.parameters)} parameters of the run should receive a"
        f" gradient, {len(missing)} do not, in {named}{more}; --no-preflight trains the others all"
        " the same"
    )


def _is_some(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())
