"""The whole demo on the tiny model: every step runs, and the report holds what was promised."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from qlora.demo import __main__ as demo
from qlora.demo.experiment import Experiment
from qlora.demo.story import Story
from qlora_kernels.errors import InputError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tiny_shakespeare_llama"
SHARES = ("base_accuracy", "tuned_accuracy", "majority_accuracy", "zero_shot_accuracy")


def test_the_demo_reports_and_replaces_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "metrics.jsonl").write_text("of an earlier demo\n")
    screen = io.StringIO()
    story = Story(Experiment(FIXTURE, tmp_path, steps=2), Console(file=screen, width=100))
    assert story.tell() == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(0 <= report[name] <= 1 for name in SHARES)
    assert report["tuned_loss"] < report["base_loss"]
    assert report["bytes_per_weight"] <= 0.517
    assert report["seconds"] == pytest.approx(sum(report["phase_seconds"].values()))
    assert Path(report["plot"]).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in Path(report["adapter"]).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    for words in ("tuned", "majority", "zero-shot", "saved", report["plot"]):
        assert words in screen.getvalue()


def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch_model(say: object) -> Path:
        raise InputError("demo: pip should download it, but said: no network")

    monkeypatch.setattr(demo, "fetch_model", fetch_model)
    assert demo.main([]) == 2
    expected = "qlora: demo: pip should download it, but said: no network\n"
    assert capsys.readouterr().err == expected
