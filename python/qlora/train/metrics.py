"""Rows on disk: metrics.jsonl, one JSON object per line, and a TensorBoard folder."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from qlora.train.rows import EvaluationRow, Row, Sink, StepRow, from_json, to_json

STEP_SCALARS = (
    *("loss", "gradient_norm", "learning_rate", "tokens_per_second"),
    *("loss_z", "gradient_norm_z", "update_ratio"),
)


class JsonLines:
    """Appends rows to a file; what a killed run wrote after its checkpoint is cut off first."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close)
        self._file.truncate(keep_bytes)

    def record(self, row: Row) -> None:
        """Write one line, visible to readers at once."""
        self._file.write(json.dumps(to_json(row)).encode() + b"\n")
        self._file.flush()

    def durable_bytes(self) -> int:
        """Flush to disk; the number of bytes written so far."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Writes scalars for TensorBoard; what came after `first_step` before is dropped."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else 0)

    def record(self, row: Row) -> None:
        """Add the scalars of a row."""
        if isinstance(row, StepRow):
            for name in STEP_SCALARS:
                if (value := getattr(row, name)) is not None:
                    self._writer.add_scalar(f"train/{name}", value, row.step)
        elif isinstance(row, EvaluationRow):
            self._writer.add_scalar("validation/loss", row.loss, row.step)
            if row.accuracy is not None:
                self._writer.add_scalar("validation/accuracy", row.accuracy, row.step)
        else:
            self._writer.add_text("warning", row.message, row.step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class Journal:
    """One place to record to: the lines file and everything else that listens."""

    def __init__(self, lines: JsonLines, others: Sequence[Sink]) -> None:
        self._lines, self._others = lines, others

    def record(self, row: Row) -> None:
        """Give a row to every sink."""
        for sink in (self._lines, *self._others):
            sink.record(row)

    def durable_bytes(self) -> int:
        """Length of the lines file, once it is safely on disk."""
        return self._lines.durable_bytes()

    def close(self) -> None:
        """Close every sink."""
        for sink in (self._lines, *self._others):
            sink.close()


def read_rows(path: Path) -> list[Row]:
    """All rows of a metrics.jsonl."""
    with open(path, encoding="utf-8") as lines:
        return [from_json(json.loads(line)) for line in lines]
