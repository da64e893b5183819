"""Whether a run fits into the memory that this process may use.

peak of one step + states that the optimizer has not made yet  <=  held now + free
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from qlora_kernels.errors import InputError

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Usage:
    """Memory of this process at one moment, in bytes: held, the most it held, and free beside."""

    held: int
    peak: int
    free: int

    @staticmethod
    def now(device: torch.device) -> "Usage | None":
        """Of a GPU, or of the process and the machine (or its control group); None: not known."""
        if device.type == "cuda":
            held, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
            free = torch.cuda.mem_get_info(device)[0] + reserved - held
            return Usage(held, torch.cuda.max_memory_allocated(device), free)
        if not sys.platform.startswith("linux"):
            return None
        status = _sizes(PROC / "self/status")
        free = _sizes(PROC / "meminfo")["MemAvailable"]
        return Usage(status["VmRSS"], status["VmHWM"], min(free, _free_in_group(free)))


@dataclass(frozen=True)
class Need:
    """What a run takes, beside what it can have.

    exact: the step went beyond all that the process had held before; else `peak` is what loading
    took, the step took less, and how much less nobody knows.
    """

    peak: int
    exact: bool
    states: int
    available: int

    @staticmethod
    def between(before: Usage, after: Usage, states: int) -> "Need":
        """From the usage before and after a step without an optimizer's states."""
        return Need(after.peak, after.peak > before.peak, states, after.held + after.free)

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        return self.peak + self.states

    def refuse_too_much(self, advice: str) -> None:
        """Raise InputError where the run is known not to fit."""
        if self.exact and self.total > self.available:
            raise InputError(
                f"preflight: memory should hold {_gibibytes(self.total)}"
                f" ({_gibibytes(self.peak)} for one step, {_gibibytes(self.states)} of optimizer"
                f" states), this process can have {_gibibytes(self.available)}; {advice}"
            )

    def __str__(self) -> str:
        """One line for people."""
        bound = "" if self.exact else "at most "
        return f"{bound}{_gibibytes(self.total)} of {_gibibytes(self.available)} of memory"


def _free_in_group(otherwise: int) -> int:
    """What a control group (a container) leaves, caches that it would give up included."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return otherwise
        used = int((CGROUP / "memory.current").read_text())
        words = [line.split() for line in (CGROUP / "memory.stat").read_text().splitlines()]
    except OSError:  # no such group
        return otherwise
    stat = {name: int(value) for name, value in words}
    return int(limit) - used + stat["inactive_file"] + stat["active_file"]


def _sizes(path: Path) -> dict[str, int]:
    """`VmRSS:  1234 kB` as {"VmRSS": bytes}."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def _gibibytes(count: int) -> str:
    return f"{count / GIBIBYTE:.2f} GiB"
