"""The callback that makes a Trainer's run on a prepared model a QLoRA run."""

from typing import Any

from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_kernels.checks import InputError
from qlora_kernels.integrations.transformers.adapter_checkpoint import keep_adapters_only
from qlora_kernels.integrations.transformers.progress_line import ProgressLine
from qlora_kernels.nn import load_adapter
from qlora_kernels.nn.qlora_linear import QLoRALinear


class QLoRACallback(TrainerCallback):
    """Checkpoints of adapters alone and a line of progress: `Trainer(callbacks=[QLoRACallback()])`.

    The model is one that `qk.prepare_model` made. Each checkpoint, and what `trainer.save_model()`
    writes, is a folder in peft's format (`qk.load_adapter` and peft read it) beside the Trainer's
    own files; the base is never written. `train(resume_from_checkpoint=...)` and
    `load_best_model_at_end` take the adapter from there, bit for bit. A model of peft is left as it
    is: its checkpoints are adapters already.

    progress: print step, loss, tokens per second and the time left at each log.

    Raises InputError for a model without adapters, and in TRL for an adapted or quantized head,
    whose weight TRL multiplies on its own.
    """

    def __init__(self, progress: bool = True) -> None:
        """Nothing is touched before the Trainer is made."""
        self.progress = progress
        self._line: ProgressLine | None = None
        self._loads_best = False

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Before any checkpoint is written or read."""
        self._take(args, given["model"])
        if self.progress and args.include_num_input_tokens_seen == "no":
            args.include_num_input_tokens_seen = "all"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Once more, since `model_init` makes another model for each run."""
        self._take(args, given["model"])
        self._line = ProgressLine(state.global_step, state.num_input_tokens_seen)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """A line for a loss of training or of an evaluation; the last log is of the whole run."""
        logs = given["logs"]
        if "train_loss" in logs and args.load_best_model_at_end and not _is_peft(given["model"]):
            # The Trainer would look for the file of a whole model: `on_train_end` does it.
            self._loads_best, args.load_best_model_at_end = True, False
        if self.progress and self._line and state.is_world_process_zero:
            now = state.global_step, state.max_steps, int(state.num_input_tokens_seen)
            for name, line in (
                ("loss", self._line.training),
                ("eval_loss", self._line.evaluation),
            ):
                if name in logs:
                    tqdm.write(line(*now, logs[name]))  # above the bar, where there is one

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Take the best adapter, where that was asked for."""
        if self._loads_best:
            self._loads_best, args.load_best_model_at_end = False, True
            if state.best_model_checkpoint is not None:
                load_adapter(given["model"], state.best_model_checkpoint)

    def _take(self, args: TrainingArguments, model: nn.Module) -> None:
        if not _is_peft(model):
            _check_head(args, model)
            keep_adapters_only(model)


def _is_peft(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def _check_head(args: TrainingArguments, model: nn.Module) -> None:
    get_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    if type(args).__module__.startswith("trl.") and isinstance(get_head(), QLoRALinear):
        raise InputError(
            "QLoRACallback: TRL multiplies the head's weight itself, which should be neither "
            "quantized nor adapted, was"
        )
