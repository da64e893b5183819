"""Preflight: what it refuses, what it says, and that it leaves every bit alone."""

import io
import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from rich.console import Console

from qlora import models
from qlora.data import Example
from qlora.data.encode import IGNORE
from qlora.guard.preflight import check
from qlora.guard.preflight.check import preflight
from qlora.guard.preflight.labels import Labels
from qlora.guard.preflight.memory import Need, Usage
from qlora.guard.watch.watched import HELD, START
from qlora.train import randomness
from qlora.train.metrics import read_rows
from qlora.train.prepare import prepare
from qlora.train.resume import find_place
from qlora.train.rows import StepRow, WarningRow
from qlora.train.step import take_step
from qlora.train.trainer import train
from qlora_kernels.errors import InputError

METHODS = [
    {},
    {"dora": True},
    {"dora": True, "dropout": 0.1, "gradient_checkpointing": True},
    {"targets": ("q_proj", "embed_tokens"), "untie": True},
    {"modules_to_save": ("norm",)},
    {"trainable_tokens": ("a", "Ġthe")},
    {"method": "full", "format": "none"},
    {"method": "prompt"},
    {"method": "prefix"},
    {"method": "bottleneck"},
]


def prepared(made):
    run, state, _ = prepare(made, find_place(made))
    return run, state


@pytest.mark.parametrize("changes", METHODS, ids=lambda c: " ".join(map(str, c.values())) or "lora")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_method_passes_and_nothing_is_changed(settings, monkeypatch, changes, dtype):
    monkeypatch.setattr(models, "compute_dtype", lambda: dtype)
    run, state = prepared(settings(**changes))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    mine = {name: p.detach().clone() for name, p in run.parameters.items()}
    generators = randomness.capture()
    found = preflight(run, state)
    assert found.parameters == len(run.parameters) > found.waiting
    assert randomness.capture() == generators
    assert all(p.grad is None for p in (*run.model.parameters(), *run.parameters.values()))
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    assert all(torch.equal(p, mine[name]) for name, p in run.parameters.items())
    assert not run.optimizer.state
    assert run.model.training


def test_the_factor_at_zero_must_learn_and_the_other_may_wait(settings):
    run, state = prepared(settings())
    found = preflight(run, state)
    assert found.waiting == len(run.parameters) / 2  # every A
    for name, parameter in run.parameters.items():
        if name.endswith("lora_b"):
            parameter.data.fill_(0.01)
    assert preflight(run, state).waiting == 0


def test_a_run_has_the_same_bits_with_and_without(settings, tmp_path):
    kept = []
    for name, wanted in (("with", True), ("without", False)):
        made = settings(output=tmp_path / name, dropout=0.1, preflight=wanted)
        rows = [r for r in read_rows(train(made).metrics) if isinstance(r, StepRow)]
        kept.append([(r.loss, r.gradient_norm, r.update_ratio) for r in rows])
    assert kept[0] == kept[1]


def freeze(run, names):
    for name in names:
        run.parameters[name].requires_grad_(False)


def test_frozen_adapters_are_refused_by_name(settings):
    run, state = prepared(settings())
    freeze(run, [name for name in run.parameters if "layers.1.mlp" in name])
    with pytest.raises(InputError) as failure:
        preflight(run, state)
    text = str(failure.value)
    assert "\n" not in text
    assert "all 56 parameters of the run should receive a gradient, 6 do not" in text
    assert "model.layers.1.mlp.gate_proj (frozen: requires_grad is False)" in text
    assert "--no-preflight" in text


def test_all_frozen_is_refused_too(settings):
    run, state = prepared(settings())
    freeze(run, run.parameters)
    with pytest.raises(InputError, match=r"56 do not, .* and 25 more; --no-preflight"):
        preflight(run, state)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda layer: setattr(layer, "adapter_enabled", False), "the loss does not reach it"),
        (lambda layer: layer.lora_a.data.zero_(), "its gradient is 0"),
    ],
    ids=["switched off", "both factors zero"],
)
def test_an_adapter_that_cannot_learn(settings, break_it, reason):
    run, state = prepared(settings())
    break_it(run.model.model.layers[0].self_attn.v_proj)
    with pytest.raises(InputError, match=re.escape(f"layers.0.self_attn.v_proj ({reason})")):
        preflight(run, state)


def test_what_no_optimizer_changes(settings):
    run, state = prepared(settings())
    run.optimizer.param_groups[0]["params"].pop()
    with pytest.raises(InputError, match="no optimizer changes it"):
        preflight(run, state)


def test_a_refused_run_has_written_nothing(settings, monkeypatch):
    monkeypatch.setattr(check.Labels, "of", lambda rows: (_ for _ in ()).throw(InputError("no")))
    made = settings()
    with pytest.raises(InputError, match="no"):
        train(made)
    assert not made.folder.exists()
    train(replace(made, preflight=False))


def example(tokens: int, supervised: int) -> Example:
    labels = [IGNORE] * (tokens - supervised) + [5] * supervised
    return Example([5] * tokens, labels, "completion", "data.jsonl line 1")


def test_masked_labels_are_refused_and_few_are_told():
    with pytest.raises(InputError, match=r"all 30 of 3 examples are masked; check that answers"):
        Labels.of([[example(10, 0)], [example(10, 0), example(10, 0)]])
    few = Labels.of([[example(500, 1)], [example(500, 2)]])
    assert few.warning is not None
    assert few.warning.startswith("only 3 of 1,000 tokens (0.30%) carry loss, 1.5 an example;")
    assert Labels.of([[example(100, 1)]]).warning is None


def test_masked_labels_in_a_run(settings):
    run, state = prepared(settings())
    masked = [[replace(e, labels=[IGNORE] * len(e)) for e in row] for row in run.rows]
    with pytest.raises(InputError, match="preflight: labels should leave tokens to learn"):
        preflight(replace(run, rows=masked), state)


def test_few_labels_are_on_the_screen_and_in_the_file(settings, tmp_path):
    data = tmp_path / "long.jsonl"
    prompt = "Shall I compare thee to a summer's day? " * 28
    line = json.dumps({"prompt": prompt, "completion": "A"}) + "\n"
    data.write_text(line * 6)
    console = Console(file=io.StringIO(), width=500)
    made = settings(data=data, sequence_length=512, steps=1, packing=False, validation_split=0.0)
    result = train(made, console)
    [warning] = [row for row in read_rows(result.metrics) if isinstance(row, WarningRow)]
    assert (warning.step, warning.cause) == (0, "few-labels")
    assert f"WARNING  step 0: {warning.message}" in console.file.getvalue()
    assert "preflight   all 56 trained tensors get a gradient (28 when" in console.file.getvalue()


def test_memory_that_is_not_there_is_refused(settings, monkeypatch):
    gib = 2**30
    usages = iter([Usage(2 * gib, 2 * gib, gib), Usage(3 * gib, 9 * gib, gib)])
    monkeypatch.setattr(Usage, "now", lambda device: next(usages))
    run, state = prepared(settings())
    with pytest.raises(InputError) as failure:
        preflight(run, state)
    assert re.fullmatch(
        r"preflight: memory should hold 9\.00 GiB \(9\.00 GiB for one step, 0\.00 GiB of optimizer"
        r" states\), this process can have 4\.00 GiB; try --gradient-checkpointing, or"
        r" --batch-size 1 --accumulate 2, or --sequence-length 16, or --optimizer paged-adamw-8bit",
        str(failure.value),
    )


def test_what_loading_took_is_no_reason_to_refuse():
    before, after = Usage(2, 9, 1), Usage(2, 9, 1)
    need = Need.between(before, after, states=5)
    assert (need.total, need.exact, need.available) == (14, False, 3)
    need.refuse_too_much("")
    assert str(need).startswith("at most ")


def test_the_usage_is_this_process(settings):
    """A tensor of 64 MiB is held, and is gone from what is free or at the peak."""
    before = Usage.now(torch.device("cpu"))
    assert before is not None
    tensor = torch.ones(2**24)
    after = Usage.now(torch.device("cpu"))
    assert after is not None
    assert after.held - before.held >= 0.95 * tensor.nbytes
    assert after.peak >= after.held
    assert after.free > 0


def test_no_memory_at_all_is_told_in_one_line(settings, monkeypatch):
    def loss_sum(model, supervised):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run, state = prepared(settings())
    monkeypatch.setattr(check, "loss_sum", loss_sum)
    with pytest.raises(InputError, match="should hold one step, does not; try --gradient-check"):
        preflight(run, state)


def test_the_level_is_known_before_anything_is_trained(settings):
    """What the first steps would see if none of them changed a weight."""
    run, state = prepared(settings(steps=HELD + 1, learning_rate=1e-30, dropout=0.0))
    preflight(run, state)
    level = state.watched.level
    state.watched.level = None
    losses = [take_step(run, state).loss for _ in range(START)]
    assert level == pytest.approx(max(losses), rel=1e-5)
    short, fresh = prepared(settings(steps=HELD))
    preflight(short, fresh)
    assert fresh.watched.level is None  # too short for a stop


def test_a_report_is_plain_values(settings):
    run, state = prepared(settings())
    assert json.dumps(asdict(preflight(run, state)))
