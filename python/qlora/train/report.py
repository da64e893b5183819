"""What a run says before its first step."""

from dataclasses import asdict, replace
from pathlib import Path

from qlora.train.methods.method import parameter_count
from qlora.train.optimizer import describe_optimizer
from qlora.train.replay import Replay, describe_replay
from qlora.train.run import Rows, Run
from qlora_kernels.nn import Description


def describe_start(run: Run, model: Description, checkpoint: Path | None) -> str:
    """What is trained on what."""
    settings = run.settings
    lines = [
        f"trainable   {_describe_trainable(run, model)}",
        f"training    {run.method.describe()}",
        f"base        {_describe_base(settings.format, model)}",
        f"optimizer   {describe_optimizer(run.optimizer)}",
        f"data        {_describe_rows(run.rows[: run.order.rows], settings.sequence_length)}",
        f"validation  {_describe_rows(run.validation, settings.sequence_length)}",
        f"steps       {run.steps}, {run.order.steps_per_epoch} an epoch,"
        f" of {settings.batch_size} x {settings.accumulate} rows",
    ]
    if settings.from_adapter:
        lines.append(f"starting    from {settings.from_adapter}")
    if settings.replay:
        replay = Replay.read(settings.replay)
        lines.append(f"replay      {describe_replay(replay, run.order, run.rows)}")
    if run.by_recipe:
        lines.append(f"recipe      {_describe_recipe(run)}")
    if checkpoint:
        lines.append(f"resuming    {checkpoint}")
    return "\n".join(lines)


def _describe_base(format_name: str, model: Description) -> str:
    if not model.num_quantized:
        return "not quantized"
    return (
        f"{format_name}, {model.bytes_per_weight:.4f} bytes per quantized weight"
        f" ({model.quantized_bytes / 2**20:.1f} MiB)"
    )


def _describe_trainable(run: Run, model: Description) -> str:
    count = parameter_count(run.parameters)
    if run.settings.method == "full":
        return f"all {count:,} parameters"
    counted = replace(model, num_trainable=count)
    return (
        f"{count:,} of {model.num_parameters:,} parameters ({counted.trainable_percent:.2f} %),"
        f" {counted.reduction:,.0f}x fewer than full fine-tuning"
    )


def _describe_recipe(run: Run) -> str:
    """What nobody set, so that nobody need guess it."""
    decided = asdict(run.settings.decided)
    told = ", ".join(f"{name} {decided[name]:g}" for name in run.by_recipe)
    return f"{told} (not given; why: qlora recipe {run.settings.data})"


def _describe_rows(rows: Rows, length: int) -> str:
    if not rows:
        return "none: no early stopping, the last adapter is kept"
    tokens = sum(len(example) for row in rows for example in row)
    return (
        f"{sum(map(len, rows)):,} examples, {tokens:,} tokens in {len(rows):,} rows of at most"
        f" {length} ({tokens / len(rows) / length:.0%} full)"
    )
