import math

import pytest
import torch

from qlora.train import step as step_module
from qlora.train.action import Diverged
from qlora.train.prepare import prepare
from qlora.train.resume import find_place
from qlora.train.state import TrainState
from qlora.train.step import take_step


def first_gradients(settings, dropout=0.0, **changes):
    """Gradients of the first step, unclipped, at a learning rate that does next to nothing."""
    made = settings(dropout=dropout, max_norm=0.0, learning_rate=1e-30, **changes)
    run, state, _ = prepare(made, find_place(made))
    kept = {}
    for name, parameter in run.parameters.items():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: kept.update({name: p.grad.clone()})
        )
    row = take_step(run, state)
    return row, kept


@pytest.mark.parametrize("packing", [True, False])
def test_accumulation_is_one_large_batch(settings, tmp_path, packing):
    """Rows of different length, so that a mean of means would be wrong."""
    data = tmp_path / "data.jsonl"
    words = ["thou", "art", "more", "lovely", "and", "more", "temperate"]
    line = '{"prompt": "O", "completion": "%s"}\n'
    lines = [line % " ".join(words[:i]) for i in range(1, 8)]
    data.write_text("".join(lines))
    same = {"data": data, "packing": packing, "validation_split": 0.0, "sequence_length": 48}
    whole, expected = first_gradients(settings, batch_size=4, **same)
    row, gradients = first_gradients(settings, batch_size=1, accumulate=4, **same)
    assert row.loss == pytest.approx(whole.loss, rel=1e-6)
    assert row.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
    assert row.tokens == whole.tokens
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * float(scale))


def test_dropout_is_on_from_the_first_step(settings):
    """It leaves the loss, as B is zero, and not the gradients of B."""
    whole, expected = first_gradients(settings)
    row, gradients = first_gradients(settings, dropout=0.3)
    assert row.loss == whole.loss
    assert not all(torch.equal(gradients[name], expected[name]) for name in expected)


def test_gradients_are_clipped(settings):
    made = settings(max_norm=0.01, validation_split=0.0)
    run, state, _ = prepare(made, find_place(made))
    seen = []
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.append(
            math.sqrt(sum(float(p.grad.square().sum()) for p in run.parameters.values()))
        )
    )
    row = take_step(run, state)
    assert row.gradient_norm > 0.01
    assert seen == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_changes_no_weight(settings, monkeypatch, value):
    made = settings()
    run, state, _ = prepare(made, find_place(made))
    before = {name: p.detach().clone() for name, p in run.parameters.items()}
    plain = step_module.loss_sum
    monkeypatch.setattr(step_module, "loss_sum", lambda *args: plain(*args) * value)
    with pytest.raises(Diverged, match=f"loss should be finite, was {value} at step 1"):
        take_step(run, state)
    assert state == TrainState()
    assert all(torch.equal(p, before[name]) for name, p in run.parameters.items())
    assert not run.optimizer.state


def test_a_gradient_that_is_not_finite(settings):
    made = settings()
    run, state, _ = prepare(made, find_place(made))
    parameter = next(iter(run.parameters.values()))
    parameter.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match="gradient norm should be finite, was"):
        take_step(run, state)


def test_the_rate_follows_the_schedule(settings):
    made = settings(steps=4, lr_schedule="linear", warmup=0.5, learning_rate=1e-3)
    run, state, _ = prepare(made, find_place(made))
    rates = [take_step(run, state).learning_rate for _ in range(4)]
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.5e-3])
