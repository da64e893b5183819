"""From a step's numbers to a verdict: a pure function, so that any run can be judged again.

A run is stopped for two reasons. A number is not finite. Or the loss has left for good: for 50
steps in a row its perplexity was over twice that of the level, which is where the run began or what
it has held since (`Watched`). A single number, however wild, is no reason.

Why a healthy run is not stopped. Rows are shuffled, so in a run that learns nothing all orders of
its losses are equally likely, whatever their distribution, and 50 losses are all above 5 with a
probability of 1 / C(55, 5) = 3e-7, above 50 others with 1 / C(100, 50) = 1e-29. A run that learns
makes its later losses smaller, which only helps. What can rise in a healthy run, as when training
goes on at a new rate, is small; to be away, a loss must be ln 2 above the level besides.
"""

import math

from qlora.guard.watch.verdict import Continue, Stop, Verdict, Warn
from qlora.guard.watch.watched import HELD, Reading, Watched
from qlora.guard.watch.window import running_median

JUMP = 10.0  # a gradient norm over its running median, a loss's z
QUIET = 20  # steps for which a warning is not repeated


def judge(watched: Watched, reading: Reading, step: int) -> Verdict:
    """Judge step `step` (the first is 1) before it changes anything."""
    for name, value in (("loss", reading.loss), ("gradient norm", reading.gradient_norm)):
        if not math.isfinite(value):
            return Stop("not-finite", f"{name} should be finite, was {value}")
    if watched.is_away(reading.loss) and watched.steps_away + 1 >= HELD:
        return Stop("loss-away", _describe_away(watched, reading), watched.steps_away)
    warning = _norm_jump(watched, reading) or _loss_jump(watched, reading)
    if warning is None or step - watched.warned_at.get(warning.cause, -QUIET) < QUIET:
        return Continue()
    return warning


def _describe_away(watched: Watched, reading: Reading) -> str:
    assert watched.level is not None
    return (
        f"loss should stay near the {watched.level:.3g} that it had, was {reading.loss:.3g}, and"
        f" its perplexity over twice as high for {HELD} steps in a row"
    )


def _norm_jump(watched: Watched, reading: Reading) -> Warn | None:
    median = running_median(watched.gradient_norms)
    norm = reading.gradient_norm
    if median is None or norm < JUMP * median or not norm:
        return None
    times = f"{norm / median:.1f} times" if median else "far above"
    return Warn(
        "gradient-norm-jump",
        f"gradient norm {norm:.3g} is {times} its running median {median:.3g}",
    )


def _loss_jump(watched: Watched, reading: Reading) -> Warn | None:
    """A loss that stands out and that is away: among losses that hardly differ, any stands out."""
    if (reading.loss_z or 0.0) < JUMP or not watched.is_away(reading.loss):
        return None
    median = running_median(watched.losses)
    return Warn(
        "loss-jump",
        f"loss {reading.loss:.3g} is {reading.loss_z:.0f} robust deviations above its running"
        f" median {median:.3g}",
    )
