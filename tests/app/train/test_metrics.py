import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qlora.train.metrics import Journal, JsonLines, TensorBoard, read_rows
from qlora.train.rows import EvaluationRow, StepRow, WarningRow


def step(number: int, loss: float = 2.0) -> StepRow:
    return StepRow(number, number / 10, loss, 0.5, 1e-4, 100 * number, 50.0, 2.0 * number, 10**6)


WATCHED = replace(step(2), loss_z=1.5, gradient_norm_z=-0.5, update_ratio=1e-3)
JUMP = WarningRow(2, "a jump", "gradient-norm-jump", {"layers.0.mlp": 2.5}, ("a.jsonl line 7",), 3)
ROWS = [step(1), EvaluationRow(1, 2.5, 12.2, None, True), WarningRow(1, "a jump"), WATCHED, JUMP]


def test_rows_survive_the_file(tmp_path: Path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for row in ROWS:
        lines.record(row)
    lines.close()
    assert read_rows(tmp_path / "metrics.jsonl") == ROWS


def test_each_line_tells_its_kind_and_names(tmp_path: Path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.record(step(3))
    lines.close()
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    values = json.loads(line)
    assert (values["kind"], values["step"], values["gradient_norm"]) == ("step", 3, 0.5)


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.record(step(1))
    kept = lines.durable_bytes()
    lines.record(step(2, loss=9.0))
    lines.close()
    lines = JsonLines(path, kept)
    lines.record(step(2))
    lines.close()
    assert read_rows(path) == [step(1), step(2)]


def test_tensorboard_has_the_scalars(tmp_path: Path):
    journal = Journal(JsonLines(tmp_path / "metrics.jsonl"), [TensorBoard(tmp_path / "board")])
    for row in ROWS:
        journal.record(row)
    journal.close()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [event.step for event in events.Scalars("train/gradient_norm")] == [1, 2]
    assert [event.value for event in events.Scalars("validation/loss")] == pytest.approx([2.5])
    assert "validation/accuracy" not in events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("train/loss_z")] == [2]  # None is no point
    assert [event.value for event in events.Scalars("train/update_ratio")] == pytest.approx([1e-3])


def test_files_of_older_runs_are_still_read(tmp_path: Path):
    """Before the watch a step had nine fields and a warning two."""
    old = (
        '{"kind": "step", "step": 1, "epoch": 0.1, "loss": 2.0, "gradient_norm": 0.5,'
        ' "learning_rate": 0.0001, "tokens": 100, "tokens_per_second": 50.0, "seconds": 2.0,'
        ' "memory_bytes": 1000000}\n{"kind": "warning", "step": 1, "message": "a jump"}\n'
    )
    (tmp_path / "metrics.jsonl").write_text(old)
    assert read_rows(tmp_path / "metrics.jsonl") == [step(1), WarningRow(1, "a jump")]
