"""A run that is told nothing: what the recipe decides is written, and the same on resuming."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.lint.material import pairs
from app.train.test_resume import Crash, assert_same_run, crash_before
from qlora.settings import from_sources
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train


@pytest.fixture
def bare(tiny: Path, write, tmp_path: Path) -> TrainSettings:
    """Nothing of what the recipe decides."""
    short = {"sequence_length": 32, "batch_size": 2, "steps": 4, "save_every": 2, "patience": 0}
    data = write(pairs(0, 40))
    return TrainSettings(model=tiny, data=data, output=tmp_path / "straight", **short)


def test_it_resumes_bit_for_bit_and_runs_again_from_its_file(bare, tmp_path, monkeypatch):
    train(bare)
    cut = replace(bare, output=tmp_path / "cut")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(3, patch)
        train(cut)
    train(replace(cut, resume="auto"))
    assert_same_run(bare.folder, cut.folder)
    written = from_sources(TrainSettings, bare.folder / "settings.yaml", {})
    assert written == bare.following(40)
    train(replace(written, output=tmp_path / "again"))
    assert_same_run(bare.folder, tmp_path / "again")
