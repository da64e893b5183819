"""Records as programs write them; what holds none is refused in one line."""

import json
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from qlora.doctor.readers import read_curves
from qlora_kernels.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_with_its_own_names(tmp_path: Path):
    table = "global_step;Train/Loss;val_loss;grad norm\n10;3.5;;1\n20;3.25;3.5;nan\n"
    curves = read_curves(write(tmp_path / "log.csv", table))
    assert curves.training.steps.tolist() == [10, 20]
    assert curves.training.values.tolist() == [3.5, 3.25]
    assert curves.validation.values.tolist() == [3.5]
    assert curves.gradient_norm.finite.values.tolist() == [1]


def test_an_export_of_weights_and_biases(tmp_path: Path):
    table = (
        '"Step","calm-lion-7 - train/loss","calm-lion-7 - train/loss__MIN"\n1,2.5,2.4\n2,2.25,2\n'
    )
    assert read_curves(write(tmp_path / "wandb.csv", table)).training.values.tolist() == [2.5, 2.25]


def test_rows_without_a_step_are_counted(tmp_path: Path):
    curves = read_curves(write(tmp_path / "log.csv", "loss\n3\n2\n1\n"))
    assert curves.training.steps.tolist() == [1, 2, 3]


def test_a_resumed_run_counts_each_step_once(tmp_path: Path):
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 2.5}]
    state = write(tmp_path / "trainer_state.json", json.dumps({"log_history": rows}))
    assert read_curves(state).training.values.tolist() == [3.0, 2.5]


def test_the_latest_checkpoint_of_a_trainer_is_read(tmp_path: Path):
    for number in (9, 10):
        rows = [{"step": step, "loss": 3.0, "grad_norm": 1.0} for step in range(1, number)]
        rows += [{"step": number, "eval_loss": float("nan")}]
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        write(folder / "trainer_state.json", json.dumps({"log_history": rows}))
    curves = read_curves(tmp_path)
    assert len(curves.training) == 9
    assert len(curves.validation) == 1 and len(curves.validation.finite) == 0


@pytest.mark.parametrize("tag", ["train/loss", "loss", "train_loss"])
def test_events_of_tensorboard(tmp_path: Path, tag: str):
    with SummaryWriter(str(tmp_path)) as writer:
        for step, loss in enumerate([3.0, 2.5, 2.0]):
            writer.add_scalar(tag, loss, step)
            writer.add_scalar("eval/loss", loss + 1, step)
    curves = read_curves(tmp_path)
    assert curves.training.values.tolist() == [3.0, 2.5, 2.0]
    assert curves.validation.values.tolist() == [4.0, 3.5, 3.0]


def test_rows_of_other_versions_are_read(tmp_path: Path):
    rows = [
        {"kind": "step", "step": 1, "loss": 3.0, "gradient_norm": 1.0, "learning_rate": 1e-4},
        {"kind": "step", "step": 2, "loss": 2.0, "update_ratio": 0.01, "of_the_future": [1]},
        {"kind": "evaluation", "step": 2, "loss": 2.5},
        {"kind": "warning", "step": 2, "message": "hot"},
        {"kind": "of the future", "step": 2},
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "st']))
    curves = read_curves(tmp_path)
    assert curves.training.values.tolist() == [3.0, 2.0]
    assert curves.validation.values.tolist() == [2.5]
    assert curves.update_ratio.values.tolist() == [0.01]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("log.csv", "", "should have the training loss"),
        ("log.csv", "step,los\n1,2\n", "had step, los"),
        ("log.csv", "step,loss\n", "at least 2 records of the training loss, had 0"),
        ("log.csv", "step,loss\n1,2.5\n", "at least 2 records of the training loss, had 1"),
        ("log.csv", "step,loss\n1,high\n2,low\n", "log.csv:2 should be numbers, was 'high'"),
        ("log.csv", "step,loss\n1,2\n,3\n", "log.csv:3 should have a step"),
        ("log.csv", "step,loss\n1," + "9" * 200_000 + "\n2,3\n", "should be a table"),
        ("trainer_state.json", "", "should be JSON"),
        ("trainer_state.json", "[" * 100_000, "should be JSON"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "metrics.jsonl:1 should be a JSON object"),
        ("trainer_state.json", "[1]", "should have the Trainer's log_history"),
        ("trainer_state.json", '{"log_history": [3, {"step": "x"}]}', "at least 2 records"),
        ("metrics.jsonl", "", "at least 2 records"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl:1 should be a JSON object"),
        ("metrics.jsonl", '{"kind": "evaluation", "step": 1}\n', "at least 2 records"),
        ("metrics.jsonl", '{"kind": "st\n{"step": 2}', "metrics.jsonl:1 should be a JSON object"),
    ],
)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, told: str):
    file = write(tmp_path / name, text)
    with pytest.raises(InputError) as error:
        read_curves(file)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_or_holds_nothing_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="was not found"):
        read_curves(tmp_path / "gone")
    with pytest.raises(InputError, match="held none of them"):
        read_curves(tmp_path)
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="should be text, was binary"):
        read_curves(tmp_path / "log.csv")
    with SummaryWriter(str(tmp_path / "a")) as writer:
        writer.add_scalar("accuracy", 1.0, 1)
    with pytest.raises(InputError, match="had accuracy"):
        read_curves(tmp_path / "a")
    with SummaryWriter(str(tmp_path / "b")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(InputError, match="one run's events, held those of a, b"):
        read_curves(tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "metrics.jsonl", "trainer_state.json"])
def test_binary_files_are_refused_in_one_line(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(InputError, match=f"{name} should be text, was binary"):
        read_curves(tmp_path / name)


def test_an_integer_beyond_any_float_is_infinite(tmp_path: Path):
    rows = [{"step": step, "loss": loss} for step, loss in enumerate([3, 10**400, 2])]
    state = write(tmp_path / "trainer_state.json", json.dumps({"log_history": rows}))
    assert read_curves(state).training.values.tolist() == [3, float("inf"), 2]
