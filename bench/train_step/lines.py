"""The lines of the table: which method runs with which allocator and which attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.train_step.methods import METHODS, Way
from bench.train_step.problem import Attention, Problem

PEERS_ADAPTERS = ("lora", "qlora")
PEERS_DEFAULT: Attention = "sdpa"  # what transformers takes where nobody chooses
GUIDE = "qlora-guide"
DEFAULT_METHODS = ("full", "lora", "qlora", "ours")


@dataclass(frozen=True)
class Line:
    """A method under an allocator (see bench.kernels.environment).

    own_default: with the attention that transformers takes by itself, and for peft + bitsandbytes
    as its guide prepares a model.
    """

    method: str
    allocator: str = "default"
    own_default: bool = False

    @property
    def way(self) -> Way:
        return METHODS[self.method]

    @property
    def name(self) -> str:
        """Unique among the lines."""
        raised = " raised" * (self.allocator == "raised")
        return f"{self.method}{raised}{' own-default' * self.own_default}"

    def problem(self, problem: Problem) -> Problem:
        """As this line takes it."""
        return replace(problem, attention=PEERS_DEFAULT) if self.own_default else problem


def lines(methods: Sequence[str], problem: Problem) -> list[Line]:
    """Each method as it is; those that allocate, raised too; the peers' adapters by their defaults.

    A default that is the problem's own is not measured twice.
    """
    found = [Line(method) for method in methods]
    # All of ours once, to show that it does not need it.
    found += [Line(m, "raised") for m in methods if METHODS[m].allocates or m == "ours"]
    if problem.attention != PEERS_DEFAULT:
        found += [Line(m, own_default=True) for m in PEERS_ADAPTERS if m in methods]
    if "qlora" in methods and not problem.checkpointing:
        found.append(Line(GUIDE, own_default=True))
    return found
