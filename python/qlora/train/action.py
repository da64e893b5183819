"""The one place where a verdict of the watch becomes an action.

What a run may do about a bad step beside stopping (go back to a checkpoint and skip the rows, give
a brittle layer more bits) belongs here: it has the run, the state before the step and the step's
gradients, and no weight has been changed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from qlora.guard.watch.brittle import Gradients, gradients_by_module, listed, most_brittle, shares
from qlora.guard.watch.verdict import Continue, Stop, Verdict, Warn
from qlora.train.rows import WarningRow
from qlora.train.run import Run
from qlora.train.settings import TrainSettings
from qlora.train.state import TrainState

LESS = 3  # times, for a rate or a norm that is too large
NAMED = 3  # examples in a message

Record = Callable[[WarningRow], None]


@dataclass
class Diverged(Exception):
    """The run cannot go on; the weights are those before step `step`."""

    step: int
    problem: str  # "loss should be finite, was nan"
    cause: str
    good_step: int | None  # after which the weights were good; None: not known
    advice: str
    evidence: WarningRow | None = None  # its row but for the message
    kept: list[Path] = field(default_factory=list)  # adapters that are good

    @property
    def row(self) -> WarningRow:
        """For metrics.jsonl."""
        evidence = self.evidence or WarningRow(self.step, "", self.cause)
        return replace(evidence, message=str(self))

    def __str__(self) -> str:
        kept = " and ".join(map(str, self.kept)) or "no adapter"
        return f"{self.problem} at step {self.step}; kept {kept}; {self.advice}"


def act_on(verdict: Verdict, run: Run, state: TrainState, record: Record) -> None:
    """Do what the verdict on the step after `state` asks for.

    Continue: nothing. Warn: record it, with the layers and examples to look at. Stop: raise
    Diverged, with gradients cleared and no weight changed.
    """
    step = state.step + 1
    match verdict:
        case Continue():
            return
        case Warn():
            gradients = gradients_by_module(run.parameters)
            message = (
                f"{verdict.message}, most of it in {shares(gradients)}; {_clipping(run.settings)},"
                f" but look at {_named(sources(run, state.step))}, or lower the learning rate"
            )
            record(_row(verdict, message, run, state, gradients))
            state.watched.warned_at[verdict.cause] = step
        case Stop():
            gradients = gradients_by_module(run.parameters)
            advice = advise(run.settings, most_brittle(run.model, gradients))
            row = _row(verdict, "", run, state, gradients)
            run.optimizer.zero_grad()
            good = state.step - verdict.steps_lost
            raise Diverged(step, verdict.message, verdict.cause, good, advice, row)


def sources(run: Run, step: int) -> tuple[str, ...]:
    """The examples that step `step`, counted from 0, trains on."""
    rows = [run.rows[number] for number in run.order.rows_of(step)]
    return tuple(dict.fromkeys(example.source for row in rows for example in row))


def advise(settings: TrainSettings, brittle: list[str]) -> str:
    """What to try next, as flags: clipping, a lower rate, more bits for brittle layers.

    A rate without a ratio means plain LoRA, so the ratio goes with it, or B's rate would fall more.
    """
    rate = f"--learning-rate {settings.decided.learning_rate / LESS:.2g}"
    if (ratio := settings.decided.lora_plus_ratio) != 1:
        rate += f" --lora-plus-ratio {ratio:g}"
    norm = settings.max_norm / LESS if settings.max_norm else 1.0
    steps = [rate, f"--max-norm {norm:.2g}"]
    if brittle:
        wider = "none" if settings.format == "int8" else "int8"
        pattern = " ".join(f"{name}={wider}" for name in brittle)
        steps.append(f"more bits where gradients meet coarse codes: --format-pattern {pattern}")
    return f"try {', or '.join(steps)}"


def _row(
    verdict: Warn | Stop, message: str, run: Run, state: TrainState, gradients: Gradients
) -> WarningRow:
    return WarningRow(
        step=state.step + 1,
        message=message,
        cause=verdict.cause,
        layers=listed(gradients),
        sources=sources(run, state.step),
        nonfinite=sum(gradients.nonfinite.values()),
    )


def _clipping(settings: TrainSettings) -> str:
    if settings.max_norm:
        return f"clipping to {settings.max_norm:g} bounds this step"
    return "nothing bounds this step (--max-norm 1 would)"


def _named(found: tuple[str, ...]) -> str:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{', '.join(found[:NAMED])}{more}"
