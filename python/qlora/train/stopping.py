"""When validation says that it is enough, and when a gradient norm is out of line."""

import statistics
from collections.abc import Sequence

JUMP = 10.0  # times the running median
HISTORY = 100  # norms that the running median is taken over
ENOUGH_HISTORY = 20  # a median of fewer says little


def exhausted(evaluations_without_gain: int, patience: int) -> bool:
    """Whether `patience` evaluations in a row brought nothing; patience 0 never stops."""
    return 0 < patience <= evaluations_without_gain


def norm_jump(history: Sequence[float], norm: float) -> str | None:
    """A warning where norm >= 10 median(history), given at least 20 norms of history."""
    if len(history) < ENOUGH_HISTORY:
        return None
    median = statistics.median(history)
    if norm < JUMP * median:
        return None
    return (
        f"gradient norm {norm:.3g} is {norm / median:.1f} times its running median {median:.3g};"
        " clipping bounds this step, but check its data or lower the learning rate"
    )
