"""The learning rate of a step."""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate_share(step: int, steps: int, warmup: float, schedule: Schedule) -> float:
    """Share of the peak rate that step `step` of `steps` trains at (both count from 0).

        (step + 1) / w                          while step < w = ceil(warmup * steps)
        cosine: (1 + cos(pi t)) / 2,  linear: 1 - t,  constant: 1,    t = (step - w) / (steps - w)

    Warm-up ends exactly at 1 and no step trains at 0.
    """
    warmup_steps = math.ceil(warmup * steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if schedule == "linear" else 1.0
