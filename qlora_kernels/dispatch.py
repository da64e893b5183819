"""Which backend runs an op: a table of refusals with reasons, under one torch operator.

An op's room holds one kernel module per backend. Each tells its BACKEND and has `refuses(...)`,
which takes the op's arguments and returns one sentence, or None if it will run them. The first
module that does not refuse runs; a forced one that refuses raises. torch's dispatcher cannot
do this, since two of our backends share one device. A room lists its modules in the order of
preference; of the two for GPUs, what was measured faster on this architecture goes first
(gpu/preferred.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from qlora_kernels import native
from qlora_kernels.checks import InputError, check_choice
from qlora_kernels.gpu.availability import triton_refusal
from qlora_kernels.gpu.cuda_module import cuda_refusal
from qlora_kernels.gpu.preferred import first_choice
from qlora_kernels.native import telling_stale

LIBRARY = torch.library.Library("qlora_kernels", "DEF")

_AUTOCAST_KEYS = ("AutocastCPU", "AutocastCUDA")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)

# name -> None if it can run on this machine, or why not
_AVAILABLE: dict[str, Callable[[], str | None]] = {
    "cpu": native.cpu_refusal,
    "triton": triton_refusal,
    "cuda": cuda_refusal,
    "reference": lambda: None,
}

_ON_GPU = ("triton", "cuda")

_forced: str | None = None


def backends() -> dict[str, str | None]:
    """Backend name -> None, or the sentence that says why it cannot run here."""
    return {name: refusal() for name, refusal in _AVAILABLE.items()}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force one backend within the block; an op that it refuses raises with the reason.

    It holds for the whole process, since autograd runs backward in threads of its own. The
    environment variable QLORA_BACKEND does the same for a whole run.
    """
    global _forced
    check_choice("use_backend", "name", name, _AVAILABLE)
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


def force_from_environment(name: str | None) -> None:
    """Force the backend that QLORA_BACKEND names, if it is set."""
    global _forced
    if name:
        check_choice("QLORA_BACKEND", "its value", name, _AVAILABLE)
        _forced = name


def may_run(backend: str) -> bool:
    """Whether this backend runs here, and no other is forced."""
    return _forced in (None, backend) and _AVAILABLE[backend]() is None


class Room:
    """The kernels of one op, best first."""

    def __init__(self, op: str, *kernels: ModuleType) -> None:
        """`kernels`: modules with BACKEND, `refuses` and the op's functions, preferred first."""
        self.op = op
        self.kernels = kernels

    def choose(self, *arguments: Any) -> ModuleType:
        """The first kernel module that does not refuse these arguments."""
        refusals = []
        for kernel in self._in_order():
            if _forced in (None, kernel.BACKEND):
                refusal = _AVAILABLE[kernel.BACKEND]() or kernel.refuses(*arguments)
                if refusal is None:
                    return kernel
                refusals.append(f"{kernel.BACKEND}: {refusal}")
        listed = "; ".join(refusals) or f"{_forced}: has no kernel for this op"
        raise InputError(
            f"{self.op}: should have a backend that runs this call, was refused by {listed}"
        )

    def _in_order(self) -> Sequence[ModuleType]:
        """The modules; the GPU's in the order in which they were measured, if they were."""
        first = first_choice(self.op)
        if first is None:
            return self.kernels
        on_gpu = [kernel for kernel in self.kernels if kernel.BACKEND in _ON_GPU]
        ranked = iter(sorted(on_gpu, key=lambda kernel: first != kernel.BACKEND))
        return [next(ranked) if kernel in on_gpu else kernel for kernel in self.kernels]


def define(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    autograd: Callable[..., Any] | None = None,
) -> Any:
    """Register one torch operator; returns the callable `torch.ops.qlora_kernels.<name>.default`.

    `autograd` is registered at torch's Autograd key, which is cheaper than torch.library.custom_op
    and keeps opcheck and torch.compile(fullgraph=True) working.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    for device in ("CPU", "CUDA"):
        LIBRARY.impl(name, telling_stale(run), device)
    LIBRARY._register_fake(name, fake)
    if autograd is not None:
        LIBRARY.impl(name, autograd, "Autograd")
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.qlora_kernels, packet), overload or "default")

    def without_autocast(*arguments: Any, **named: Any) -> Any:
        """A kernel computes in the dtype that it was given; what it calls may not recast."""
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*arguments, **named)

    for key in _AUTOCAST_KEYS:
        LIBRARY.impl(name, without_autocast, key)
    return operator
