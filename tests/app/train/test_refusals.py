"""Bad input: one line that says what should be and what was, and nothing written."""

from dataclasses import replace
from pathlib import Path

import pytest

from qlora.cli import main
from qlora.train.alone import alone_in
from qlora.train.trainer import train
from qlora_kernels.errors import InputError


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def refusal(settings) -> str:
    with pytest.raises(InputError) as error:
        train(settings)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank should be"),
        ({"dropout": 1.0}, "dropout should be in [0, 1), was 1.0"),
        ({"block_size": 65}, "block_size should be"),
        ({"sequence_length": 1}, "train: sequence_length should be at least 2, was 1"),
        ({"batch_size": 0}, "train: batch_size should be at least 1, was 0"),
        ({"steps": 0}, "train: steps should be at least 1, was 0"),
        ({"learning_rate": 0.0}, "train: learning_rate should be above 0, was 0.0"),
        ({"epochs": float("inf")}, "train: epochs should be above 0, was inf"),
        ({"max_norm": -1.0}, "train: max_norm should be 0 or more, was -1.0"),
        ({"validation_split": 1.0}, "train: validation_split should be in [0, 1), was 1.0"),
        ({"seed": -1}, "train: seed should be in [0, 2^63), was -1"),
        ({"keep": 0}, "train: keep should be at least 1, was 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_make_no_sense(settings, changes, message):
    with pytest.raises(InputError) as error:
        settings(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Path("nowhere")}, "nowhere should be a model folder or .gguf file, is absent"),
        ({"data": Path("nowhere.txt")}, "nowhere.txt: cannot read the data"),
        ({"sequence_length": 513}, "sequence_length should be at most the 512 positions"),
        ({"targets": ("q_prok",)}, "q_prok"),
        ({"resume": "nowhere"}, "resume: should be auto, a checkpoint or a run with one, was nowh"),
    ],
    ids=["model", "data", "positions", "targets", "resume"],
)
def test_what_cannot_be_trained(settings, changes, message):
    made = settings(**changes)
    assert message in refusal(made)
    assert not made.folder.exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "should hold at least one example"),
        ('{"text": "To be"}\n{"text": \n', "line 2"),
        ('{"prompt": "To be", "completion": "or not"}\n', "validation_split should leave examples"),
    ],
    ids=["empty", "json", "one"],
)
def test_data_that_cannot_be_trained_on(settings, tmp_path, lines, message):
    data = tmp_path / "data.jsonl"
    data.write_text(lines)
    made = settings(data=data)
    assert message in refusal(made)
    assert not made.folder.exists()


def test_a_folder_in_use(settings, tmp_path):
    made = settings()
    made.folder.mkdir()
    (made.folder / "metrics.jsonl").write_text("")
    assert refusal(made) == (
        f"train: output should be a new folder, was {made.folder}, which holds a run"
        " (--resume auto goes on with it)"
    )
    file = tmp_path / "file"
    file.write_text("mine")
    assert "output should be a folder" in refusal(settings(output=file))
    assert file.read_text() == "mine"


@pytest.fixture(scope="module")
def finished(settings_in, tmp_path_factory):
    """A finished run."""
    made = settings_in(tmp_path_factory.mktemp("finished") / "run", steps=2, save_every=1)
    train(made)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, "rank should be 4, was 8"),
        ({"seed": 1, "dropout": 0.2}, "dropout should be 0.15, was 0.2; seed should be 0, was 1"),
        ({"steps": 9}, "steps should be 2, was 9"),
        ({"format": "fp4"}, "format should be nf4, was fp4"),
        ({"learning_rate": 1e-3}, "learning_rate should be 0.005, was 0.001"),
        ({"data": "other"}, "training data (digest) should be "),
        ({"targets": "all-linear", "rslora": True}, "rslora should be False, was True"),
    ],
    ids=["rank", "two", "steps", "format", "rate", "data", "rslora"],
)
def test_a_checkpoint_of_other_settings(finished, tmp_path, changes, message):
    if "data" in changes:
        changes = {"data": tmp_path / "other.txt"}
        changes["data"].write_text(finished.data.read_text().replace("rose", "weed"))
    before = snapshot(finished.folder)
    text = refusal(replace(finished, resume="auto", **changes))
    folder = finished.folder / "checkpoints/checkpoint-000002"
    assert text.startswith(f"resume: to go on from {folder}, ")
    assert message in text
    assert snapshot(finished.folder) == before


def test_another_output_than_the_checkpoint_has(finished, tmp_path):
    made = replace(finished, resume=str(finished.folder), output=tmp_path / "other")
    assert "output should be the checkpoint's run" in refusal(made)
    assert not made.folder.exists()


@pytest.mark.parametrize("name", ["checkpoint.json", "optimizer.safetensors"])
def test_a_checkpoint_that_was_cut_short(finished, name):
    file = finished.folder / "checkpoints/checkpoint-000001" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    text = refusal(replace(finished, resume=str(file.parent)))
    file.write_bytes(whole)
    assert text.startswith(f"resume: {file} should be readable")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rank", "0"], "rank should be"),
        (["--rank", "some"], "--rank should be a whole number, was the text 'some'"),
        (["--lr-schedule", "cosin"], "--lr-schedule should be one of cosine, linear, constant"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
    ],
    ids=["value", "type", "choice", "data"],
)
def test_the_command_says_one_line_and_ends_with_2(tiny, tmp_path, capsys, flags, message):
    output = tmp_path / "run"
    flags = ["--model", str(tiny), "--data", "none.txt", "--output", str(output), *flags]
    assert main(["train", *flags]) == 2
    captured = capsys.readouterr()
    [line] = [line for line in captured.err.splitlines() if not line.startswith("Loading")]
    assert line.startswith("qlora: ")
    assert message in line
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_trainer(settings):
    made = settings()
    with alone_in(made.folder):
        message = f"train: {made.folder} should have one trainer, has another"
        assert refusal(made) == message
        assert list(made.folder.iterdir()) == []
