"""`qlora doctor` on real runs: ours, the Hugging Face Trainer's, a table."""

import json
import sys
from pathlib import Path

import pytest

from qlora.cli import main
from qlora.doctor import diagnose
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train

FIXTURES = Path(__file__).parents[2] / "fixtures"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """Twelve sonnets learned by heart."""
    folder = tmp_path_factory.mktemp("run") / "sonnets"
    settings = TrainSettings(
        FIXTURES / "tiny_shakespeare_llama",
        FIXTURES / "sonnets.txt",
        output=folder,
        sequence_length=32,
        batch_size=8,
        steps=50,
        learning_rate=1e-2,
        evaluate_every=10,
        patience=0,
    )
    train(settings)
    return folder


def test_a_run_that_memorises_is_told_so_and_written(run_folder: Path, capsys):
    assert main(["doctor", str(run_folder)]) == 0
    told = capsys.readouterr().out
    assert f"{run_folder}: this is overfitting" in told
    assert "fix         --epochs" in told and "experiment" in told
    assert "not capacity-too-low: " in told
    record = json.loads((run_folder / "doctor.json").read_text())
    assert record["findings"][0]["cause"] == "overfitting"
    assert record["facts"]["gap_learned"]["value"] > 0.2
    assert (run_folder / "doctor.png").read_bytes().startswith(PNG)


def test_without_measuring_the_same_is_said_less_surely(run_folder: Path, capsys):
    measured = diagnose(run_folder).findings[0]
    assert main(["doctor", str(run_folder), "--no-measure", "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    first = record["findings"][0]
    assert first["cause"] == measured.cause == "overfitting"
    assert first["confidence"] < measured.confidence
    assert "not asked for" in record["not_measured"][0]
    assert "gap_learned" not in record["facts"]


def test_a_run_whose_model_is_gone_is_judged_by_its_curves(run_folder: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "metrics.jsonl").write_bytes((run_folder / "metrics.jsonl").read_bytes())
    text = (run_folder / "settings.yaml").read_text()
    (moved / "settings.yaml").write_text(text.replace("tiny_shakespeare_llama", "gone"))
    diagnosis = diagnose(moved)
    assert diagnosis.findings[0].cause == "overfitting"
    assert "could not be opened" in diagnosis.not_measured[0]


def test_a_trainer_state_of_the_hugging_face_trainer(tmp_path: Path, capsys, model, tokenizer):
    from transformers import Trainer, TrainingArguments

    ids = tokenizer((FIXTURES / "sonnets.txt").read_text())["input_ids"]
    cut = [ids[at : at + 32] for at in range(0, 32 * 32, 32)]
    rows = [{"input_ids": piece, "labels": piece} for piece in cut]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=60,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    Trainer(model, arguments, train_dataset=rows[:24], eval_dataset=rows[24:]).train()
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "checkpoint-60/trainer_state.json"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    first = record["findings"][0]
    assert first["cause"] == "overfitting"
    assert 0.5 <= first["confidence"] < 0.8
    assert any("gap_learned" in question for question in first["unsettled"])
    assert not (tmp_path / "checkpoint-60/doctor.json").exists()


def test_a_table_writes_where_it_is_told(tmp_path: Path, capsys):
    lines = [f"{step},{3 - step / 100 + 0.01 * (step % 3)},{2e-4}" for step in range(1, 101)]
    (tmp_path / "log.csv").write_text("step,loss,lr\n" + "\n".join(lines))
    where = ["--output", str(tmp_path / "out")]
    assert main(["doctor", str(tmp_path / "log.csv"), *where]) == 0
    assert "stopped-too-early" in capsys.readouterr().out
    assert (tmp_path / "out/doctor.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "RUN (or env) should be given"),
        (["gone"], "gone should be a run, was not found"),
        (["--recents", "x"], "did you mean '--recent'?"),
        ([str(FIXTURES), "--probe", "gone.txt"], "--probe should be a file, was gone.txt"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words: list[str], told: str, capsys):
    try:
        assert main(["doctor", *words]) == 2
    except SystemExit as end:
        assert end.code == 2
    complaint = capsys.readouterr().err
    assert told in complaint and complaint.count("\n") == 1


def test_a_handful_of_records_is_not_called_healthy(tmp_path: Path, capsys):
    (tmp_path / "log.csv").write_text("step,loss\n1,3\n2,2.5\n")
    assert (
        main(["doctor", str(tmp_path / "log.csv"), "--probe", str(FIXTURES / "sonnets.txt")]) == 0
    )
    told = capsys.readouterr().out
    assert "so few records say little either way" in told
    assert "the model and its data, sonnets.txt: only a run folder" in told


def test_output_that_is_a_file_is_refused_before_anything_is_measured(tmp_path: Path, capsys):
    table = tmp_path / "log.csv"
    table.write_text("step,loss\n1,3\n2,2.5\n")
    assert main(["doctor", str(table), "--output", str(table)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "--output should be a folder" in captured.err


@pytest.mark.parametrize(("method", "known"), [("lora", True), ("full", False)])
def test_rates_of_other_methods_are_not_held_against_loras(
    tmp_path: Path, method: str, known: bool
):
    rows = [
        {"kind": "step", "step": n, "loss": 3.0, "learning_rate": 2e-5, "update_ratio": 1e-5}
        for n in range(1, 30)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "settings.yaml").write_text(f"method: {method}\n")
    diagnosis = diagnose(tmp_path, measure=False)
    for name in ("learning_rate_peak", "reach", "update_ratio"):
        assert (name in diagnosis.facts) == known


def test_without_matplotlib_the_findings_are_still_written(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "log.csv").write_text("step,loss\n1,3\n2,2.5\n")
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "qlora.doctor.picture", raising=False)
    where = ["--output", str(tmp_path / "out")]
    assert main(["doctor", str(tmp_path / "log.csv"), *where]) == 2
    assert json.loads((tmp_path / "out/doctor.json").read_text())["healthy"]
    assert "matplotlib" in capsys.readouterr().err
