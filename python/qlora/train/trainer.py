"""`train(settings)`: one run from settings to adapter, the same from Python and the shell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import qlora_kernels as qk
from qlora.guard.preflight.check import Preflight, preflight
from qlora.lint import Notice, describe
from qlora.settings import to_yaml
from qlora.train.account import account_or_reason
from qlora.train.action import Diverged
from qlora.train.alone import alone_in
from qlora.train.checkpoint import copy_adapter, latest
from qlora.train.interrupts import Interrupts
from qlora.train.loop import train_loop
from qlora.train.memory import peak_bytes
from qlora.train.metrics import Journal, JsonLines, TensorBoard, read_rows
from qlora.train.optimizer import paging_stats
from qlora.train.plot import draw_curves
from qlora.train.prepare import prepare
from qlora.train.progress import ScreenProgress
from qlora.train.report import describe_start
from qlora.train.result import TrainResult
from qlora.train.resume import Place, find_place
from qlora.train.rows import Sink, StepRow, WarningRow
from qlora.train.run import Run
from qlora.train.settings import TrainSettings
from qlora.train.state import TrainState
from qlora_kernels.files import write_text


def train(settings: TrainSettings, console: Console | None = None) -> TrainResult:
    """Fine-tune as `settings` say; shows progress on `console`, or nothing without one.

    Raises InputError for bad input and for what the preflight refuses, before anything is written,
    and Diverged, its message naming the saved adapter, where the watch says stop.
    """
    place = find_place(settings)
    run, state, metrics_bytes = prepare(settings, place)
    due = settings.preflight and state.step < run.steps
    checked = preflight(run, state) if due else None
    with alone_in(run.files.folder):
        return _train(run, state, (place, metrics_bytes), checked, console)


def _train(
    run: Run,
    state: TrainState,
    continued: tuple[Place, int],
    checked: Preflight | None,
    console: Console | None,
) -> TrainResult:
    settings, model = run.settings, qk.nn.describe(run.model)
    place, metrics_bytes = continued
    write_text(run.files.settings, to_yaml(replace(settings, resume=None, output=run.files.folder)))
    if console:
        lines = [
            describe_start(run, model, place.checkpoint),
            *([checked.describe()] if checked else []),
        ]
        console.print("\n".join(lines), soft_wrap=True, highlight=False)
        _tell(run.notices, console)
    journal = _open_journal(run, state, metrics_bytes, console)
    try:
        if checked and checked.warning:
            journal.record(WarningRow(state.step, checked.warning, "few-labels"))
        with Interrupts() as interrupts:
            ending = train_loop(run, state, journal, interrupts)
        if not run.validation and ending == "finished":
            run.method.save(run.files.adapter)
    except Diverged as failure:
        _save_last_good(run, state, failure)
        journal.record(failure.row)
        raise
    finally:
        journal.close()
        plot = _draw(run)
    peak = peak_bytes(run.model.device)
    kept = checked.kept if checked else None
    return TrainResult(
        ending=ending,
        signal=interrupts.number if ending == "interrupted" else None,
        steps=state.step,
        best_step=state.best_step,
        best_loss=state.best_loss,
        folder=run.files.folder,
        adapter=run.files.adapter if run.files.adapter.exists() else None,
        checkpoint=latest(run.files.checkpoints),
        metrics=run.files.metrics,
        plot=plot,
        model=model,
        seconds=state.seconds,
        peak_memory_bytes=peak,
        memory=account_or_reason(run, kept, peak) if plot else None,
        paging=paging_stats(run.optimizer),
    )


def _tell(notices: Sequence[Notice], console: Console) -> None:
    """What the lints found; texts of the data are in it, so nothing is markup."""
    if notices:
        console.print(describe(notices), soft_wrap=True, highlight=False, markup=False)


def _open_journal(
    run: Run, state: TrainState, metrics_bytes: int, console: Console | None
) -> Journal:
    files = run.files
    others: list[Sink] = [TensorBoard(files.tensorboard, state.step)]
    if console:
        others.append(ScreenProgress(console, run.steps, state.step))
    return Journal(JsonLines(files.metrics, metrics_bytes), others)


def _save_last_good(run: Run, state: TrainState, failure: Diverged) -> None:
    """Keep the best adapter, and the last good one: that of now, or of a checkpoint before."""
    kept = [run.files.adapter] if run.files.adapter.exists() else []
    place = run.files.last_good if kept else run.files.adapter
    checkpoint = latest(run.files.checkpoints, failure.good_step)
    if failure.good_step == state.step:
        run.method.save(place)
        kept.append(place)
    elif failure.good_step is not None and checkpoint:
        copy_adapter(checkpoint, place)
        kept.append(place)
    failure.kept = kept


def _draw(run: Run) -> Path | None:
    rows = read_rows(run.files.metrics)
    if not any(isinstance(row, StepRow) for row in rows):
        return None
    title = f"{run.files.folder.name}: {run.settings.model.name}, {run.settings.format}"
    return draw_curves(rows, run.files.plot, title, run.settings.max_norm)
