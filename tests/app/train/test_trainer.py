import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qlora_kernels as qk
from qlora import models
from qlora.evaluation import evaluate
from qlora.models import load_tuned
from qlora.settings import from_sources
from qlora.train import step as step_module
from qlora.train.action import Diverged
from qlora.train.metrics import read_rows
from qlora.train.prepare import make_rows, read_sets
from qlora.train.rows import EvaluationRow, StepRow, WarningRow
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train


def parities(path: Path) -> Path:
    """Forty questions with one of two answers."""
    line = '{"prompt": "Is %d odd?", "completion": "%s"}\n'
    path.write_text("".join(line % (n, ("Nay", "Aye")[n % 2]) for n in range(40)))
    return path


def test_a_run_learns_and_leaves_everything_behind(settings, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    data = parities(tmp_path / "data.jsonl")
    made = settings(data=data, steps=40, warmup=0.1, evaluate_every=10, save_every=20)
    result = train(made, console)
    rows = read_rows(result.metrics)
    evaluations = [row for row in rows if isinstance(row, EvaluationRow)]
    assert [row.step for row in evaluations] == [0, 10, 20, 30, 40]
    assert [row.step for row in rows if isinstance(row, StepRow)] == list(range(1, 41))
    assert result.best_loss == min(row.loss for row in evaluations) < evaluations[0].loss / 4
    assert {path.name for path in result.folder.iterdir()} == {
        *("adapter", "checkpoints", "curves.png", "metrics.jsonl", "settings.yaml", "tensorboard")
    }
    written = from_sources(TrainSettings, result.folder / "settings.yaml", {})
    assert written == made.following(40), "what the recipe decided is written down"
    assert result.model.bytes_per_weight <= 0.517
    text = console.file.getvalue()
    decided = "alpha 8, dropout 0.15, weight_decay 0.1, lora_plus_ratio 1 (not given"
    assert f"recipe      {decided}; why: qlora recipe {data})" in text
    kinds = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    assert f"rank 4 on 28 layers: {kinds}" in text
    assert f"{result.model.num_trainable:,} of {result.model.num_parameters:,} parameters" in text
    assert "bytes per quantized weight" in text


def test_the_saved_adapter_has_the_best_loss(settings, tiny, tokenizer):
    """Even at a rate that ruins the model."""
    made = settings(steps=12, evaluate_every=3, learning_rate=0.05, lr_schedule="constant")
    result = train(replace(made, patience=0))
    assert result.best_step < 12
    model, _ = load_tuned(tiny, result.adapter, made.layers)
    _, held_out = read_sets(made, tokenizer, 1024)
    loss = evaluate(model, make_rows(made, held_out)).loss
    assert loss == pytest.approx(result.best_loss, rel=1e-5)


def test_early_stopping(settings):
    """Two validations in a row without a gain, at a rate that ruins the model; resuming agrees."""
    made = settings(steps=40, evaluate_every=2, learning_rate=0.3, lr_schedule="constant")
    made = replace(made, patience=2)
    result = train(made)
    losses = [row.loss for row in read_rows(result.metrics) if isinstance(row, EvaluationRow)]
    assert (result.ending, result.steps) == ("stopped early", 2 * (len(losses) - 1))
    assert losses.index(min(losses)) == len(losses) - 3
    again = train(replace(made, resume="auto"))
    assert (again.ending, again.steps) == ("stopped early", result.steps)


def test_without_validation_the_last_adapter_is_kept(settings):
    result = train(settings(validation_split=0.0))
    assert result.best_loss is None
    saved = load_file(result.adapter / "adapter_model.safetensors")
    last = load_file(result.checkpoint / "adapter/adapter_model.safetensors")
    assert all(torch.equal(saved[name], last[name]) for name in last)


def test_a_validation_file(settings, tmp_path):
    validation = tmp_path / "validation.txt"
    validation.write_text("Shall I compare thee to a summer's day?\n")
    result = train(settings(validation=validation))
    assert result.best_loss is not None


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's
def test_peft_loads_the_adapter(settings, tiny):
    """On the unquantized base, so that both compute the same."""
    result = train(settings(format="none", steps=4, validation_split=0.0))
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    ids = torch.arange(20)[None]
    plain = base(ids).logits.detach()
    theirs = PeftModel.from_pretrained(base, result.adapter).eval()(ids).logits
    ours, _ = load_tuned(tiny, result.adapter, qk.QLoRAConfig(format="none"), "float32")
    torch.testing.assert_close(ours(ids).logits, theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - plain).abs().max() > 0.01


@pytest.mark.parametrize("validation_split", [0.1, 0.0])
def test_divergence_keeps_the_last_good_adapter(settings, monkeypatch, validation_split):
    plain, calls = step_module.loss_sum, []

    def loss_sum(model, supervised):
        calls.append(1)
        return plain(model, supervised) * (math.nan if len(calls) == 6 else 1.0)

    monkeypatch.setattr(step_module, "loss_sum", loss_sum)
    made = settings(validation_split=validation_split)
    with pytest.raises(Diverged) as failure:
        train(made)
    text = str(failure.value)
    assert text.startswith("loss should be finite, was nan at step 6; kept ")
    assert "\n" not in text
    folder: Path = made.folder
    good = folder / ("adapter-last-good" if validation_split else "adapter")
    assert str(good) in text
    assert load_file(good / "adapter_model.safetensors")
    assert (folder / "curves.png").exists()
    warning = read_rows(folder / "metrics.jsonl")[-1]
    assert isinstance(warning, WarningRow)
    assert (warning.step, warning.cause) == (6, "not-finite")
    assert warning.nonfinite > 0
    assert "try --learning-rate 0.0017, or --max-norm 0.33, or more bits" in text


def test_a_loss_that_is_lost_stops_and_goes_back(settings):
    """At once too high a rate: 50 steps at more than twice the base's perplexity."""
    made = settings(steps=200, learning_rate=0.15, patience=0, validation_split=0.0, save_every=1)
    made = replace(made, lr_schedule="constant", keep=2)
    with pytest.raises(Diverged) as failure:
        train(made)
    assert failure.value.cause == "loss-away"
    good = failure.value.good_step
    assert good < 5
    assert f"for 50 steps in a row at step {good + 50}; kept {made.folder}/adapter" in str(
        failure.value
    )
    [kept] = failure.value.kept
    names = sorted(path.name for path in (made.folder / "checkpoints").iterdir())
    assert names == [f"checkpoint-{n:06d}" for n in (good, good + 48, good + 49)]
    then = load_file(made.folder / f"checkpoints/{names[0]}/adapter/adapter_model.safetensors")
    saved = load_file(kept / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], then[name]) for name in then)


def test_a_gradient_jump_is_a_loud_warning(settings, monkeypatch):
    plain = step_module._gradients

    def gradients(run, step):
        loss, norm, tokens = plain(run, step)
        return loss, norm * (100 if step == 24 else 1), tokens

    monkeypatch.setattr(step_module, "_gradients", gradients)
    console = Console(file=io.StringIO(), width=200)
    made = settings(steps=26, evaluate_every=26, save_every=26, sequence_length=16, batch_size=1)
    result = train(made, console)
    [warning] = [row for row in read_rows(result.metrics) if isinstance(row, WarningRow)]
    assert warning.step == 25
    assert "times its running median" in warning.message
    assert "most of it in model.layers." in warning.message
    assert "sonnets.txt, or lower the learning rate" in warning.message
    assert warning.cause == "gradient-norm-jump"
    assert len(warning.layers) == 8
    assert f"WARNING  step 25: {warning.message}" in console.file.getvalue()


def test_bf16_where_the_processor_has_it(settings, tmp_path, monkeypatch):
    """Emulated here: base and activations in bf16, adapters and their gradients in fp32."""
    made = settings(data=parities(tmp_path / "data.jsonl"), learning_rate=1e-3)
    full = train(replace(made, output=tmp_path / "fp32"))
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.bfloat16)
    half = train(replace(made, output=tmp_path / "bf16"))
    saved = load_file(half.adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert half.best_step == full.best_step == 8
    assert half.best_loss == pytest.approx(full.best_loss, rel=0.02)
    assert half.best_loss != full.best_loss


def test_conversations_and_a_chat_template(settings, tmp_path):
    data = tmp_path / "chat.jsonl"
    line = (
        '{"messages": [{"role": "user", "content": "Who art thou %d?"},'
        ' {"role": "assistant", "content": "A rose."}]}\n'
    )
    data.write_text("".join(line % number for number in range(20)))
    result = train(settings(data=data, sequence_length=64, steps=10, evaluate_every=5))
    evaluations = [row for row in read_rows(result.metrics) if isinstance(row, EvaluationRow)]
    assert evaluations[0].accuracy == 0.0
    assert evaluations[-1].loss < evaluations[0].loss
