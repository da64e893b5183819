"""What the numbers say of runs whose fault is known."""

import pytest
import torch

from qlora.doctor.gradients import LayerGradient
from qlora.doctor.measures import captured_gradient, untargeted_gradient
from qlora.doctor.measures.captured_gradient import captured_share, chance_share
from qlora.doctor.subject import Subject
from qlora_kernels.errors import InputError


def facts_of(folder, measurement):
    return {fact.name: fact for fact in measurement.measure(Subject.open(folder))}


def gradient(seen, missed, rank=1, chance=0.1):
    matrix = torch.tensor(seen, dtype=torch.float64)
    rest = None if missed is None else torch.tensor(missed, dtype=torch.float64)
    return LayerGradient(matrix, rest, rank, chance, True, matrix.numel())


def test_shares_weigh_layers_by_their_energy():
    layers = {"a": gradient([[2.0, 0.0]], [[1.0, 0.0]]), "b": gradient([[0.0, 1.0]], [[0.0, 1.0]])}
    assert captured_share(layers) == pytest.approx(1 - 2 / 5)
    assert chance_share(layers) == pytest.approx(0.1)
    with pytest.raises(InputError, match="gave none"):
        captured_share({"a": gradient([[0.0]], [[0.0]])})


def test_density_is_per_weight():
    layers = {"a": gradient([[2.0, 0.0]], None), "b": gradient([[0.0, 0.0]], None)}
    assert untargeted_gradient.density(layers) == 1.0


def test_a_run_cut_short_still_has_gradient_that_its_adapters_can_follow(run):
    """At a low rate B has turned to the gradient and the gradient has not turned away from it."""
    slow = facts_of(run(learning_rate=1e-4), captured_gradient)
    assert slow["captured_gradient"].value > 2 * slow["captured_by_chance"].value
    assert slow["captured_gradient_start"].value > 2 * slow["captured_by_chance"].value
    assert slow["captured_gradient"].by_layer.keys() == Subject.open(run()).adapted.keys()
    assert slow["capturable_gradient"].value > slow["captured_gradient"].value
    assert 0.3 < slow["gradient_left"].value < 1.1


def test_untrained_adapters_hold_what_chance_holds(run, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    facts = facts_of(run(steps=2, seed=7), captured_gradient)
    rows = 4 / 128  # of A; B is zero
    assert facts["captured_by_chance"].value == pytest.approx(rows, rel=0.5)
    assert facts["captured_gradient"].value < 4 * rows
    assert facts["gradient_left"].value == pytest.approx(1)


def test_layers_without_adapters_are_told(run):
    few = facts_of(run(targets=("q_proj", "k_proj")), untargeted_gradient)
    assert few["untargeted_gradient"].value > 0.8
    assert few["untargeted_density"].value > 1
    assert few["untargeted_capturable"].value > 0.5
    assert len(few["untargeted_gradient"].by_layer) == 20
    assert sum(few["untargeted_gradient"].by_layer.values()) == pytest.approx(
        few["untargeted_gradient"].value
    )
    assert "20 of 28 linear layers without an adapter" in few["untargeted_gradient"].detail


def test_adapters_everywhere_leave_nothing_out(run):
    (fact,) = facts_of(run(), untargeted_gradient).values()
    assert (fact.value, fact.detail) == (0.0, "all 28 linear layers have an adapter")
