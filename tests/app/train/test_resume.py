"""A run that was cut off and resumed ends with the same bits as one that never stopped."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.train.killing import kill_after_a_checkpoint
from qlora.train import loop
from qlora.train.metrics import read_rows
from qlora.train.rows import StepRow, to_json
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train

HARD = {"dropout": 0.1, "accumulate": 2, "batch_size": 2, "patience": 0}  # and it shuffles
TIMES = ("seconds", "tokens_per_second", "memory_bytes")


class Crash(Exception):
    """As if the power went."""


def crash_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loop.take_step

    def take_step(run, state, *rest):
        if state.step == step:
            raise Crash
        return plain(run, state, *rest)

    monkeypatch.setattr(loop, "take_step", take_step)


def last_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def tensors(folder: Path) -> dict[str, bytes]:
    """The bits of all tensors of all files; a file's header may list its names in any order."""
    return {
        f"{path.relative_to(folder)}: {name}": tensor.numpy().tobytes()
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def differing(one: Path, other: Path) -> list[str]:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys() != set()
    return [name for name in first if first[name] != second[name]]


def manifest(checkpoint: Path) -> dict[str, Any]:
    """checkpoint.json without its times."""
    values: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text())
    del values["state"]["seconds"]
    del values["metrics_bytes"]  # the digits of times
    return values


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows without their times."""
    values = [to_json(row) for row in read_rows(folder / "metrics.jsonl")]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in values]


def assert_same_run(one: Path, other: Path) -> None:
    first, second = last_checkpoint(one), last_checkpoint(other)
    assert differing(first, second) == []
    assert differing(one / "adapter", other / "adapter") == []
    assert manifest(first) == manifest(second)
    assert rows(one) == rows(other)


@pytest.fixture(scope="module")
def straight(settings_in, tmp_path_factory) -> TrainSettings:
    """A run that nothing stopped."""
    settings: TrainSettings = settings_in(tmp_path_factory.mktemp("straight") / "run", **HARD)
    train(settings)
    return settings


def cut_and_resume(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(6, patch)  # two steps after the checkpoint
        train(settings)
    assert last_checkpoint(settings.folder).name == "checkpoint-000004"
    torch.manual_seed(123)  # whatever the next process starts with
    result = train(replace(settings, resume="auto"))
    assert (result.ending, result.steps) == ("finished", 8)


def test_cut_off_and_resumed_is_never_stopped(straight, tmp_path, monkeypatch):
    cut_and_resume(replace(straight, output=tmp_path / "cut"), monkeypatch)
    assert_same_run(straight.folder, tmp_path / "cut")


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout_on": "input", "packing": False, "format": "int8"},
        {"gradient_checkpointing": True, "format": "none", "validation_split": 0.0},
    ],
    ids=["int8-unpacked", "16-bit-recomputed"],
)
def test_so_it_is_in_other_ways_of_training(straight, tmp_path, monkeypatch, changes):
    other = replace(straight, output=tmp_path / "straight", **changes)
    train(other)
    cut_and_resume(replace(other, output=tmp_path / "cut"), monkeypatch)
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_another_seed_gives_other_bits(straight, tmp_path):
    train(replace(straight, output=tmp_path / "other", seed=1))
    differ = differing(last_checkpoint(straight.folder), last_checkpoint(tmp_path / "other"))
    assert any("lora_A" in name for name in differ)


def test_a_signal_saves_a_checkpoint_between_two_others(straight, tmp_path, monkeypatch):
    stopped = replace(straight, output=tmp_path / "stopped")
    plain = loop.take_step

    def take_step(run, state, *rest):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(run, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", take_step)
        result = train(stopped)
    assert (result.ending, result.signal, result.steps) == ("interrupted", signal.SIGTERM, 3)
    assert result.checkpoint == tmp_path / "stopped/checkpoints/checkpoint-000003"
    assert result.plot is not None
    train(replace(stopped, resume=str(tmp_path / "stopped")))
    assert_same_run(straight.folder, tmp_path / "stopped")


def test_a_signal_during_validation_leaves_it_due(straight, tmp_path, monkeypatch):
    stopped = replace(straight, output=tmp_path / "stopped")
    plain, seen = loop.evaluate, []

    def evaluate(*arguments):
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", evaluate)
        result = train(stopped)
    assert (result.ending, result.signal, result.steps) == ("interrupted", signal.SIGINT, 4)
    train(replace(stopped, resume="auto"))
    assert_same_run(straight.folder, tmp_path / "stopped")


def test_killed_for_real(straight, tmp_path):
    """kill -9 from outside, at whatever moment; the threads must be as many as here."""
    killed = replace(straight, output=tmp_path / "killed", save_every=1)
    kill_after_a_checkpoint(killed, tmp_path / "run.yaml")
    train(replace(killed, resume="auto"))
    assert_same_run(straight.folder, tmp_path / "killed")


def test_resuming_a_finished_run_changes_nothing(straight):
    before = rows(straight.folder)
    result = train(replace(straight, resume="auto"))
    assert (result.ending, result.steps) == ("finished", 8)
    assert rows(straight.folder) == before


def test_only_the_last_checkpoints_stay(settings, tmp_path):
    folder = tmp_path / "run/checkpoints"
    (folder / ".checkpoint-000002.half").mkdir(parents=True)  # what a kill leaves
    train(settings(save_every=2, keep=2, resume="auto"))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoint-000006", "checkpoint-000008"]


def test_what_may_change_may_change(settings, tmp_path, monkeypatch):
    """How often to look and where the files are does not decide the numbers."""
    moved = tmp_path / "moved.txt"
    moved.write_bytes(settings().data.read_bytes())
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(6, patch)
        train(settings())
    result = train(settings(resume="auto", data=moved, evaluate_every=3, save_every=1, keep=1))
    steps = [row.step for row in read_rows(result.metrics) if isinstance(row, StepRow)]
    assert steps == list(range(1, 9))
