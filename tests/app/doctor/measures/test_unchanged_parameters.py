import shutil

import pytest
import torch

from qlora.doctor.measures import unchanged_parameters
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError


def unchanged(folder):
    (fact,) = unchanged_parameters.measure(Subject.open(folder))
    return fact


def test_share_of_equal_values():
    start = torch.tensor([1.0, 2.0, 3.0, 4.0])
    now = torch.tensor([1.0, 2.0, 3.5, 4.0])
    assert unchanged_parameters.share_equal([(start, now)]) == 0.75
    assert unchanged_parameters.share_equal([(start, now), (now[:1], now[:1])]) == 0.8


def test_a_healthy_run_moves_everything(run):
    fact = unchanged(run())
    assert fact.value < 0.01
    assert fact.detail.endswith("B is zero in 0 of 28 layers")


@pytest.mark.parametrize(
    "changes", [{}, {"dora": True}, {"init": "kaiming-uniform", "targets": ("v_proj", "up_proj")}]
)
def test_a_run_whose_optimizer_does_nothing(run, monkeypatch, changes):
    """The start is drawn again from the run's seed, bit for bit."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    fact = unchanged(run(**changes, steps=2, seed=7))
    assert fact.value == 1.0
    assert set(fact.by_layer.values()) == {1.0}


def test_layers_that_stand_still_are_named(run, monkeypatch):
    """Frozen behind the optimizer's back, as a wrong hook would."""
    from qlora.train import optimizer, prepare

    build = optimizer.build_optimizer

    def without_v(settings, parameters, folder):
        left = {n: p for n, p in parameters.items() if ".v_proj." not in n}
        return build(settings, left, folder)

    monkeypatch.setattr(prepare, "build_optimizer", without_v)
    monkeypatch.setattr("qlora.train.checkpoint._optimizer_tensors", lambda run: {})
    fact = unchanged(run(steps=3, seed=8, preflight=False))
    still = {name for name, share in fact.by_layer.items() if share == 1}
    assert still == {f"model.layers.{layer}.self_attn.v_proj" for layer in range(4)}
    assert "B is zero in 4 of 28 layers" in fact.detail


def test_a_run_that_went_on_from_an_adapter(run, tmp_path, monkeypatch):
    """Its start is that adapter; where it is gone, this alone cannot be measured."""
    first = tmp_path / "first"
    shutil.copytree(run() / "adapter", first)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    second = run(from_adapter=first, steps=2)
    assert unchanged(second).value == 1.0
    shutil.rmtree(first)
    with pytest.raises(InputError, match="first should hold the adapter that training began with"):
        unchanged(second)
