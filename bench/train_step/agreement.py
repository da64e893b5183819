"""Whether two trainers train the same: their losses, step by step, from the same start.

    off = max over steps of |loss - twin's loss| / twin's loss        at most BOUND[dtype]

The bound is a fraction of what a mistake does: alpha read as twice itself, or a rate for B that is
16 times A's, moves a loss by percents within ten steps. In float32 what is left is that
bitsandbytes rounds scales in another way on a CPU; in bf16 every product rounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOUND = {"float32": 0.005, "bfloat16": 0.02}


@dataclass(frozen=True)
class Agreement:
    """of `name` with the twin; both took as many steps."""

    name: str
    twin: str
    off: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.off <= self.bound

    def describe(self) -> str:
        verdict = "agrees with" if self.holds else "DISAGREES with"
        return (
            f"{self.name} {verdict} {self.twin}: losses off by {self.off:.1e} at most"
            f" (bound {self.bound:g})"
        )


def farthest(losses: Sequence[float], twin: Sequence[float]) -> float:
    """The largest relative difference of any step; infinite for losses that are no numbers."""
    offs = [abs(mine / other - 1) for mine, other in zip(losses, twin, strict=True)]
    return max((off if off == off else float("inf") for off in offs), default=float("inf"))


def agreements(
    losses: Mapping[str, Sequence[float]], twins: Mapping[str, str], dtype: str
) -> list[Agreement]:
    """Of each name with the twin that took part too."""
    return [
        Agreement(name, twin, farthest(losses[name], losses[twin]), BOUND[dtype])
        for name, twin in twins.items()
        if name in losses and twin in losses
    ]
