import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import qlora_kernels as qk
from qlora.cli import main
from qlora.train import step as step_module


def flags(tiny: Path, output: Path, *more: str) -> list[str]:
    sonnets = tiny.parent / "sonnets.txt"
    words = ["train", "--model", tiny, "--data", sonnets, "--output", output, "--rank", 4]
    words += ["--sequence-length", 32, "--batch-size", 2, "--evaluate-every", 2, *more]
    return list(map(str, words))


def test_a_run_from_the_shell(tiny, tmp_path, capsys):
    assert main(flags(tiny, tmp_path / "run", "--steps", "4")) == 0
    out = capsys.readouterr().out
    assert "trainable   " in out
    assert "step 4/4" in out
    assert "finished after 4 steps" in out
    for name in ("adapter", "metrics.jsonl", "curves.png"):
        assert str(tmp_path / "run" / name) in out
        assert (tmp_path / "run" / name).exists()


def test_native_kernels_run_all_of_it(tiny, tmp_path):
    """Forced, a backend that lacked an op would refuse."""
    with qk.use_backend("cpu"):
        assert main(flags(tiny, tmp_path / "run", "--steps", "2")) == 0


def test_json_alone_on_stdout(tiny, tmp_path, capsys):
    assert main(flags(tiny, tmp_path / "run", "--steps", "2", "--json")) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["ending"], result["steps"]) == ("finished", 2)
    assert result["adapter"] == str(tmp_path / "run/adapter")
    assert result["model"]["num_trainable"] > 0
    assert "step 2/2" in captured.err


def test_settings_yaml_runs_it_again(tiny, tmp_path, capsys):
    assert main(flags(tiny, tmp_path / "run", "--steps", "2")) == 0
    again = ["--config", str(tmp_path / "run/settings.yaml"), "--output", str(tmp_path / "again")]
    assert main(["train", *again]) == 0
    assert (tmp_path / "again/adapter").exists()


def test_divergence_is_one_line_and_exit_code_1(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step_module, "_gradients", lambda run, step: (float("inf"), 1.0, 64))
    assert main(flags(tiny, tmp_path / "run", "--steps", "4")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("qlora train: loss should be finite, was inf at step 1; kept ")


def test_sigterm_ends_with_143_and_a_checkpoint(tiny, tmp_path):
    command = [sys.executable, "-m", "qlora.cli", *flags(tiny, tmp_path / "run", "--steps", "9999")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted after " in out
    if "interrupted after 0 steps" not in out:
        assert list((tmp_path / "run/checkpoints").glob("checkpoint-*"))
        assert "--resume auto" in out
