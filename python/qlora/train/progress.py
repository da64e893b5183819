"""A run on the screen: a live line on a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from qlora.train.rows import EvaluationRow, Row, StepRow

PLAIN_SECONDS = 10.0  # between two plain lines


class ScreenProgress:
    """Shows rows; `notes` (warnings, validations) stay, the live line is replaced."""

    def __init__(self, console: Console, steps: int, first_step: int = 0) -> None:
        self._console, self._steps, self._first = console, steps, first_step
        self._start = self._last_line = time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
            self._live = Progress(*columns, console=console, refresh_per_second=4, transient=True)
            self._task = self._live.add_task("", total=steps, completed=first_step)
            self._live.start()

    def record(self, row: Row) -> None:
        """Show a row."""
        if isinstance(row, StepRow):
            self._step(row)
        elif isinstance(row, EvaluationRow):
            self._note(describe_evaluation(row), "bold green" if row.best else "")
        else:
            self._note(f"WARNING  step {row.step}: {row.message}", "bold red")

    def close(self) -> None:
        """Remove the live line."""
        if self._live:
            self._live.stop()

    def _step(self, row: StepRow) -> None:
        line = describe_step(row, self._steps, self._eta(row.step))
        if self._live:
            self._live.update(self._task, completed=row.step, description=line)
            return
        now = time.monotonic()
        ends = row.step in (self._first + 1, self._steps)
        if ends or now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            self._note(line, "")

    def _note(self, line: str, style: str) -> None:
        self._console.print(Text(line, style), soft_wrap=True)

    def _eta(self, step: int) -> float:
        """Seconds to the end, from all that was done since the start, validations included."""
        per_step = (time.monotonic() - self._start) / (step - self._first)
        return per_step * (self._steps - step)


def describe_step(row: StepRow, steps: int, eta: float) -> str:
    """One line about a step."""
    return (
        f"step {row.step}/{steps}  epoch {row.epoch:.2f}  loss {row.loss:.4f}"
        f"  grad norm {row.gradient_norm:.3g}  {row.tokens_per_second:.0f} tokens/s"
        f"  eta {clock(eta)}  memory {row.memory_bytes / 2**20:.0f} MiB"
    )


def describe_evaluation(row: EvaluationRow) -> str:
    """One line about a validation."""
    accuracy = "" if row.accuracy is None else f"  exact {row.accuracy:.1%}"
    best = "  best so far" if row.best else ""
    return (
        f"validation after step {row.step}  loss {row.loss:.4f}"
        f"  perplexity {row.perplexity:.4g}{accuracy}{best}"
    )


def clock(seconds: float) -> str:
    """`1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
