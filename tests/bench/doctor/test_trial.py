"""One fault from its rows to its diagnosis, on the fixture, in a few steps."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bench.doctor import base
from bench.doctor.diagnosis import diagnosed, rejudged
from bench.doctor.experiment import Experiment, Trial
from bench.doctor.run import trained
from bench.doctor.table import EXPERIMENTS

SHORT = {"steps": 6, "evaluate_every": 3, "save_every": 6, "warmup": 0.0}


def short(name: str, **changes) -> Experiment:
    experiment = EXPERIMENTS[name]
    return replace(experiment, settings={**experiment.settings, **SHORT}, num_train=96, **changes)


def run(experiment: Experiment, root: Path):
    trial = Trial(experiment, 100, base.FIXTURE, root)
    outcome = trained(trial)
    assert outcome is not None
    return trial, outcome


def test_a_frozen_run_is_trained_examined_and_named_and_nothing_twice(tmp_path, monkeypatch):
    trial, outcome = run(short("frozen-factors"), tmp_path)
    assert outcome["ending"] == "finished"
    assert outcome["curve"]["validation_step"] == [0, 3, 6]
    assert len(set(outcome["curve"]["validation"])) == 1  # nothing was learned
    diagnosis = diagnosed(trial)
    assert diagnosis["findings"][0]["cause"] == "frozen-adapters"
    assert diagnosis["facts"]["unchanged_parameters"]["value"] > 0.4
    monkeypatch.setattr("bench.doctor.run.train", None)
    monkeypatch.setattr("bench.doctor.diagnosis.diagnose", None)
    assert trained(trial) == outcome
    assert diagnosed(trial) == diagnosis
    again = rejudged({**outcome, **diagnosis})
    assert again["findings"] == diagnosis["findings"]


def test_frozen_layers_do_not_move_and_the_last_one_does(tmp_path):
    trial, _ = run(short("frozen-layers"), tmp_path)
    [folder] = (trial.folder / "run" / "checkpoints").iterdir()
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    moved = {name: bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name}
    assert {name for name, did in moved.items() if did} == {n for n in moved if ".layers.3." in n}


def test_the_twin_of_a_frozen_run_does_move(tmp_path):
    _, outcome = run(short("frozen-factors", injection=nullcontext), tmp_path)
    assert outcome["curve"]["validation"][-1] < outcome["curve"]["validation"][0]


@pytest.mark.filterwarnings("ignore")  # of libraries about each other
def test_the_trainer_leaves_its_state_and_nothing_is_measured(tmp_path):
    pytest.importorskip("peft", reason="the Trainer's runs need peft")
    trial, outcome = run(short("hf-verdicts"), tmp_path)
    assert len(outcome["curve"]["validation"]) == 3
    diagnosis = diagnosed(trial)
    assert "captured_gradient" not in diagnosis["facts"]
    assert diagnosis["not_measured"]


def test_the_base_learns_to_end_its_rows(tmp_path):
    folder = base.make_base(tmp_path, steps=2)
    assert (folder / "config.json").is_file()
    assert base.make_base(tmp_path) == folder  # made once
    assert len(base.beginnings()) > 10 * base.HELD_OUT
