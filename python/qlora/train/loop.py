"""Training: steps, validations, checkpoints, and the reasons to stop."""

import math

from qlora.evaluation import evaluate
from qlora.train import checkpoint
from qlora.train.action import Diverged, advise
from qlora.train.interrupts import Interrupts
from qlora.train.metrics import Journal
from qlora.train.result import Ending
from qlora.train.rows import EvaluationRow
from qlora.train.run import Run
from qlora.train.state import TrainState
from qlora.train.step import take_step
from qlora.train.stopping import exhausted


def train_loop(run: Run, state: TrainState, journal: Journal, interrupts: Interrupts) -> Ending:
    """Train from `state` to the end; returns why it ended.

    What is due after a step follows from the state alone, so a resumed run does the same.
    """
    saved = state.step
    while True:
        if interrupts.number is None and _evaluation_due(run, state):
            _evaluate(run, state, journal, interrupts)
        ending = _ending(run, state, interrupts)
        if state.step != saved and (ending or state.step % run.save_every == 0):
            checkpoint.save(run, state, journal.durable_bytes())
            saved = state.step
        if ending:
            return ending
        journal.record(take_step(run, state, journal.record))


def _ending(run: Run, state: TrainState, interrupts: Interrupts) -> Ending | None:
    if interrupts.number is not None:
        return "interrupted"
    if state.step >= run.steps:
        return "finished"
    early = exhausted(state.evaluations_without_gain, run.settings.patience)
    return "stopped early" if early else None


def _evaluation_due(run: Run, state: TrainState) -> bool:
    due = state.step % run.evaluate_every == 0 or state.step >= run.steps
    return bool(run.validation) and due and state.evaluated_step != state.step


def _evaluate(run: Run, state: TrainState, journal: Journal, interrupts: Interrupts) -> None:
    """Validate; the adapter with the lowest loss so far is the one that the run leaves behind."""
    result = None
    with interrupts.droppable():
        result = evaluate(run.model, run.validation, run.pad_id, run.settings.batch_size)
    if result is None:  # it stays due
        return
    if not math.isfinite(result.loss):
        problem = f"validation loss should be finite, was {result.loss}"
        raise Diverged(state.step, problem, "not-finite", None, advise(run.settings, []))
    best = state.note_evaluation(result.loss)
    if best:
        run.method.save(run.files.adapter)
    row = EvaluationRow(state.step, result.loss, result.perplexity, result.accuracy, best)
    journal.record(row)
