"""One optimizer step: accumulate, clip, judge, update."""

import math
import time

import torch

from qlora.guard.watch.judge import judge
from qlora.objective import loss_sum, supervise
from qlora.train.action import Record, act_on
from qlora.train.memory import peak_bytes
from qlora.train.rows import StepRow
from qlora.train.run import Run
from qlora.train.schedule import learning_rate_share
from qlora.train.state import TrainState


def take_step(run: Run, state: TrainState, record: Record = lambda row: None) -> StepRow:
    """Train on the next rows; raises Diverged, no weight changed, where the watch says stop.

        gradient = d/dtheta  (sum of losses over all forward passes) / (their supervised tokens)

    so accumulation gives what one large forward pass would. Warnings of the watch are recorded.
    """
    start = time.perf_counter()
    settings, optimizer = run.settings, run.optimizer
    share = learning_rate_share(state.step, run.steps, settings.warmup, settings.lr_schedule)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share
    loss, norm, tokens = _gradients(run, state.step)
    reading = state.watched.read(loss, norm)
    act_on(judge(state.watched, reading, state.step + 1), run, state, record)
    before = run.update_meter.sample()
    optimizer.step()
    update_ratio = run.update_meter.ratio_since(before)
    optimizer.zero_grad()
    state.watched.note(reading)
    seconds = time.perf_counter() - start
    state.step += 1
    state.tokens += tokens
    state.seconds += seconds
    return StepRow(
        step=state.step,
        epoch=state.step / run.order.steps_per_epoch,
        loss=loss,
        gradient_norm=norm,
        learning_rate=settings.decided.learning_rate * share,
        tokens=state.tokens,
        tokens_per_second=tokens / seconds,
        seconds=state.seconds,
        memory_bytes=peak_bytes(run.model.device),
        loss_z=reading.loss_z,
        gradient_norm_z=reading.gradient_norm_z,
        update_ratio=update_ratio,
    )


def _gradients(run: Run, step: int) -> tuple[float, float, int]:
    """Leave clipped gradients in the parameters; loss, norm before clipping, tokens seen."""
    rows = [run.rows[number] for number in run.order.rows_of(step)]
    size = run.settings.batch_size
    batches = [supervise(rows[i : i + size], run.pad_id) for i in range(0, len(rows), size)]
    num_labels = sum(len(batch.labels) for batch in batches)
    total = torch.zeros((), device=run.model.device)
    for batch in batches:
        loss = loss_sum(run.model, batch) / num_labels
        loss.backward()
        total += loss.detach()
    max_norm = run.settings.max_norm or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.parameters.values(), max_norm)
    loss_value, norm_value = torch.stack([total, norm]).tolist()  # waits for a GPU
    return loss_value, norm_value, sum(batch.batch.num_tokens for batch in batches)
