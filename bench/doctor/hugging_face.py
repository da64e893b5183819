"""The same run by Hugging Face's Trainer with peft's LoRA, which leaves trainer_state.json."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler

from bench.doctor.experiment import Trial
from qlora.data import Example, collate, read_examples
from qlora.data.encode import pad_token
from qlora.models import load_model
from qlora.train.order import RowOrder
from qlora.train.settings import TrainSettings

STATE = "trainer_state.json"


def train_with_hugging_face(trial: Trial) -> dict[str, list[float]]:
    """Write run/trainer_state.json and run/adapter; what trainer_state.json says of the losses.

    Batches are the same as our trainer's, so that the poisoned one is.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, Trainer, set_seed

    settings = trial.settings
    assert settings.steps is not None
    set_seed(settings.seed)
    model, tokenizer = load_model(settings.model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=round(settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
    )
    adapted = get_peft_model(model, config)
    training, validation = (
        read_examples(path, tokenizer, settings.sequence_length)
        for path in (settings.data, trial.folder / "data" / "validation.jsonl")
    )
    order = RowOrder(len(training), settings.batch_size, settings.seed)
    rows = [training[row] for step in range(settings.steps) for row in order.rows_of(step)]
    run = trial.folder / "run"

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(rows)

    def batch(examples: list[Example]) -> dict[str, torch.Tensor]:
        collated = collate([[example] for example in examples], pad_token(tokenizer))
        return {"input_ids": collated.input_ids, "labels": collated.labels}

    trainer = InOrder(
        adapted,
        arguments(settings, run),
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=batch,
    )
    trainer.remove_callback(PrinterCallback)  # the bar is enough
    trainer.train()
    trainer.state.save_to_json(str(run / STATE))
    adapted.save_pretrained(run / "adapter")
    return curve(run / STATE)


def arguments(settings: TrainSettings, output: Path) -> Any:
    """The settings in the Trainer's words; as our trainer, it validates before the first step."""
    from transformers import TrainingArguments

    assert settings.steps is not None
    return TrainingArguments(
        str(output),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_norm,
        logging_steps=1,
        eval_strategy="steps",
        eval_on_start=True,
        eval_steps=settings.evaluate_every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=settings.seed,
        remove_unused_columns=False,
        dataloader_drop_last=False,
    )


def curve(state: Path) -> dict[str, list[float]]:
    """Losses of trainer_state.json, by name."""
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    training = [row for row in history if "loss" in row]
    validation = [row for row in history if "eval_loss" in row]
    return {
        "training_step": [row["step"] for row in training],
        "training": [row["loss"] for row in training],
        "validation_step": [row["step"] for row in validation],
        "validation": [row["eval_loss"] for row in validation],
    }
