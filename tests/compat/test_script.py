"""The example script learns, and what it saved is what it reads."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_script(tmp_path: Path, monkeypatch, capsys):
    text = tmp_path / "poems.txt"
    poems = (ROOT / "tests/fixtures/sonnets.txt").read_text().split("\n\n")
    text.write_text("\n\n".join(poems[:5]))
    tiny = ROOT / "tests/fixtures/tiny_shakespeare_llama"
    monkeypatch.setattr(sys, "argv", ["script", str(tiny), str(text), str(tmp_path / "out")])
    torch.manual_seed(0)
    runpy.run_path(str(ROOT / "docs/examples/bitsandbytes_script.py"), run_name="__main__")
    *epochs, reloaded = re.findall(r"(\d+\.\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert len(epochs) == 3 and float(epochs[-1]) < float(epochs[0])
    assert reloaded == epochs[-1]
