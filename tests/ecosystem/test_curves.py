"""30 steps of ours and of stock peft give the same losses, in each loop and trainer."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from ecosystem.twins import BATCH, STEPS, assert_alike, optimizer_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SETTINGS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture
def few(rows) -> list[dict[str, torch.Tensor]]:
    """So few rows that 30 steps go over them again and again."""
    return rows[:8]


def test_plain_loop(model, few):
    def train(twin: nn.Module) -> list[float]:
        optimizer, losses = optimizer_of(twin), []
        for step in range(STEPS):
            batch = torch.stack([few[(BATCH * step + i) % len(few)]["input_ids"] for i in (0, 1)])
            loss = twin(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    assert_alike(train, model)


def test_accelerate(model, few):
    """With gradients of two batches added up for each step."""

    def train(twin: nn.Module) -> list[float]:
        run = Accelerator(gradient_accumulation_steps=2, cpu=True)
        loader = DataLoader(few, batch_size=BATCH // 2)
        net, optimizer, loader = run.prepare(twin, optimizer_of(twin), loader)
        losses: list[float] = []
        while len(losses) < 2 * STEPS:
            for batch in loader:
                with run.accumulate(net):
                    loss = net(**batch).loss
                    run.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
        return [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)][:STEPS]

    assert_alike(train, model)


def logged(trainer: Trainer) -> list[float]:
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_hf_trainer(model, few, tmp_path: Path):
    def train(twin: nn.Module) -> list[float]:
        args = TrainingArguments(str(tmp_path), **SETTINGS)
        optimizers = (optimizer_of(twin), None)
        return logged(Trainer(twin, args, train_dataset=few, optimizers=optimizers))

    assert_alike(train, model)


def test_trl(model, few, tokenizer, tmp_path: Path):
    data = Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in few])

    def train(twin: nn.Module) -> list[float]:
        args = SFTConfig(str(tmp_path), bf16=False, gradient_checkpointing=False, **SETTINGS)
        return logged(
            SFTTrainer(
                twin,
                args,
                train_dataset=data,
                processing_class=tokenizer,
                optimizers=(optimizer_of(twin), None),
            )
        )

    assert_alike(train, model)
