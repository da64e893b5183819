"""What the watch makes of a step."""

from dataclasses import dataclass
from typing import Literal

Cause = Literal["gradient-norm-jump", "loss-jump", "not-finite", "loss-away"]


@dataclass(frozen=True)
class Continue:
    """Nothing to say."""


@dataclass(frozen=True)
class Warn:
    """Train on, and tell a person."""

    cause: Cause
    message: str


@dataclass(frozen=True)
class Stop:
    """Do not take this step; the weights were last good `steps_lost` steps ago."""

    cause: Cause
    message: str  # what should be, what was
    steps_lost: int = 0


Verdict = Continue | Warn | Stop
