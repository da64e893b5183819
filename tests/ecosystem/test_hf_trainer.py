"""HF's Trainer with QLoRACallback: checkpoints of adapters alone, and runs that go on from them."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, Trainer, TrainingArguments

import qlora_kernels as qk
from ecosystem.conftest import TINY
from qlora_kernels.integrations.transformers import NF4Config, QLoRACallback
from qlora_kernels.nn import QLoRAConfig, adapter_parameters

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

CONFIG = QLoRAConfig(rank=4, dropout=0.1)
METHODS = {
    "dora": {"dora": True},
    "norm and rows of tokens": {"modules_to_save": ["model.norm"], "trainable_tokens": [5, 900]},
    "embedding": {"targets": ["embed_tokens", "q_proj"], "untie": True},
}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
NONE_OF_ITS_OWN = {  # that the Trainer writes beside the model
    "model.safetensors.index.json",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
}

Make = Callable[..., Trainer]


def prepared(model: nn.Module, config: QLoRAConfig = CONFIG, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return qk.prepare_model(copy.deepcopy(model), config)


@pytest.fixture
def make(rows, tmp_path: Path) -> Make:
    """A Trainer of 4 steps that saves after 2; what is said differs."""

    def trainer(model: nn.Module, *more: object, **changes: object) -> Trainer:
        settings = {
            "max_steps": 4,
            "save_steps": 2,
            "per_device_train_batch_size": 2,
            "learning_rate": 5e-3,
            "logging_steps": 1,
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": True,
        }
        args = TrainingArguments(str(tmp_path / "run"), **{**settings, **changes})
        return Trainer(
            model,
            args,
            train_dataset=rows[:40],
            eval_dataset=rows[-4:],
            callbacks=[QLoRACallback(), *more],
        )

    return trainer


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in adapter_parameters(model).items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def losses(trainer: Trainer) -> dict[int, float]:
    return {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_run_that_never_stopped(make, model, tmp_path, method: str):
    config = replace(CONFIG, **METHODS[method])
    whole = make(prepared(model, config))
    whole.train()
    resumed = make(prepared(model, config, seed=1))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    assert same(values(whole.model), values(resumed.model))
    assert losses(resumed) == losses(whole)


def test_a_checkpoint_holds_the_adapter_and_never_the_base(make, model, tmp_path, tokens):
    trainer = make(prepared(model), max_steps=2)
    trainer.train()
    folder = tmp_path / "run/checkpoint-2"
    assert {f.name for f in folder.iterdir()} == ADAPTER | NONE_OF_ITS_OWN
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(values(trainer.model))
    fresh = prepared(model, seed=1)
    qk.load_adapter(fresh, folder)
    assert same(values(fresh), values(trainer.model))
    stock = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    with torch.no_grad():
        moved = stock(tokens).logits - model(tokens).logits
    assert moved.abs().max() > 0, "peft applies it"


def test_saving_the_model_leaves_the_checkpoints_of_its_folder_alone(make, model, tmp_path):
    checkpoint = tmp_path / "run/checkpoint-2"
    checkpoint.mkdir(parents=True)
    make(prepared(model)).save_model()
    names = {f.name for f in (tmp_path / "run").iterdir()}
    assert names >= {*ADAPTER, "checkpoint-2"} and "model.safetensors" not in names


def test_early_stopping_ends_with_the_best_adapter(make, model, tmp_path):
    """Trained on noise, the model gets worse and worse at sonnets."""
    stopping = EarlyStoppingCallback(early_stopping_patience=1)
    changes = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = make(prepared(model), stopping, load_best_model_at_end=True, **changes)
    noise = torch.randint(4, 1024, (8, 32))
    trainer.train_dataset = [{"input_ids": row, "labels": row} for row in noise]
    trainer.train()
    evaluated = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    best = trainer.state.best_model_checkpoint
    assert len(evaluated) == 2 and evaluated[0] < evaluated[1]
    assert best == str(tmp_path / "run/checkpoint-1") and trainer.args.load_best_model_at_end
    fresh = prepared(model, seed=1)
    qk.load_adapter(fresh, best)
    assert same(values(fresh), values(trainer.model))


def test_the_lines_of_progress(make, model, capsys):
    make(prepared(model), max_steps=2, eval_strategy="steps", eval_steps=2).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    number = r"[\d,.]+"
    training = [rf"step {n}/2  loss {number}  {number} tokens/s  \d+:\d\d left" for n in (1, 2)]
    expected = [*training, rf"step 2/2  evaluation loss {number}"]
    assert len(lines) == 3 and all(map(re.fullmatch, expected, lines))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(make, model, reentrant: bool):
    runs = []
    for checkpointing in (False, True):
        trainer = make(
            prepared(model),
            max_steps=1,
            activation_checkpointing=checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": reentrant},
        )
        trainer.train()
        runs.append(values(trainer.model))
    assert same(*runs)


def test_bf16_keeps_the_adapters_in_float32(make, model):
    start = prepared(model)
    trainer = make(prepared(model).bfloat16(), bf16=True, max_steps=2)
    trainer.train()
    trained, before = values(trainer.model), values(start)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert not any(torch.equal(trained[n], before[n]) for n in trained if "lora_b" in n)


def test_a_model_made_by_model_init_is_saved_and_resumed_too(rows, model, tmp_path, make):
    args = make(prepared(model)).args
    runs = []
    for checkpoint in (None, str(tmp_path / "run/checkpoint-2")):
        trainer = Trainer(
            model_init=lambda: prepared(model),
            args=args,
            train_dataset=rows[:40],
            callbacks=[QLoRACallback(progress=False)],
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        runs.append(values(trainer.model))
    assert same(*runs) and not (tmp_path / "run/checkpoint-2/model.safetensors").exists()


def test_a_checkpoint_of_another_adapter_is_refused(make, model, tmp_path):
    make(prepared(model), max_steps=2).train()
    wider = make(prepared(model, QLoRAConfig(rank=8)))
    with pytest.raises(qk.InputError, match=r"load_state_dict: .* should be \[8, .*\], was \[4"):
        wider.train(resume_from_checkpoint=True)
    fewer = make(prepared(model, QLoRAConfig(rank=4, targets=["q_proj"])))
    with pytest.raises(qk.InputError, match=r"should train the same, .* is in the file alone"):
        fewer.train(resume_from_checkpoint=True)


def test_a_model_without_adapters_is_refused(make, model):
    with pytest.raises(qk.InputError, match="QLoRACallback: model should have adapters"):
        make(model)
    with pytest.raises(qk.InputError, match=r"should be a PreTrainedModel, .*was Sequential"):
        make(qk.prepare_model(nn.Sequential(nn.Linear(32, 32)), CONFIG))


def test_a_copy_of_the_model_saves_itself(make, model, tmp_path):
    trainer = make(prepared(model))
    twin = copy.deepcopy(trainer.model)
    for parameter in adapter_parameters(twin).values():
        parameter.data.fill_(0.5)
    twin.save_pretrained(tmp_path / "twin")
    qk.load_adapter(trainer.model, tmp_path / "twin")
    assert all((p == 0.5).all() for p in values(trainer.model).values())


def test_a_model_that_was_quantized_while_loading_trains_with_our_adapters(make, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(TINY, quantization_config=NF4Config())
    with pytest.raises(ValueError, match="purely quantized"):
        make(model)
    make(qk.prepare_model(model, CONFIG), max_steps=2).train()
    assert {f.name for f in (tmp_path / "run/checkpoint-2").iterdir()} == ADAPTER | NONE_OF_ITS_OWN
