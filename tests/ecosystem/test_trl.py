"""TRL's SFTTrainer: what its open issues are about, and what it cannot train."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import nn
from trl import SFTConfig, SFTTrainer

import qlora_kernels as qk
from qlora_kernels.integrations.transformers import QLoRACallback
from qlora_kernels.nn import QLoRAConfig, quantized_layers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

RATE = 1e-4


def trainer(model: nn.Module, rows: list, folder: Path, **changes: object) -> SFTTrainer:
    settings = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": RATE}
    rest = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    return SFTTrainer(
        model,
        SFTConfig(str(folder), **{**settings, **rest, **changes}),
        train_dataset=Dataset.from_list([{"input_ids": r["input_ids"].tolist()} for r in rows[:8]]),
        callbacks=[QLoRACallback(progress=False)],
    )


def magnitudes(model: nn.Module) -> dict[str, torch.Tensor]:
    layers = quantized_layers(model).items()
    return {n: m.lora_magnitude.detach().clone() for n, m in layers if m.lora_a is not None}


def test_trl_7268_magnitudes_stay_float32_and_move(model, rows, tmp_path):
    """Its updates are too small for bfloat16, in which they would leave most values as they are."""
    qk.prepare_model(model.bfloat16(), QLoRAConfig(rank=4, dora=True))
    before = magnitudes(model)
    trainer(model, rows, tmp_path, bf16=True).train()
    after = magnitudes(model)
    assert {m.dtype for m in after.values()} == {torch.float32}
    assert all((after[name] != before[name]).all() for name in before)
    rounded = [(after[n].bfloat16() == before[n].bfloat16()).float().mean() for n in before]
    assert min(rounded) > 0.5


def test_packed_rows_train(model, rows, tmp_path):
    """Without padding, many texts in a row: TRL gives positions and no mask."""
    qk.prepare_model(model, QLoRAConfig(rank=4))
    run = trainer(model, rows, tmp_path, packing=True, packing_strategy="wrapped", max_length=48)
    run.train()
    assert run.state.log_history[-1]["train_loss"] > 0


@pytest.mark.parametrize(
    "changes",
    [{"quantize_head": True}, {"targets": ["q_proj", "lm_head"]}],
    ids=["quantized", "adapted"],
)
def test_a_head_that_trl_would_not_train_is_refused(model, rows, tmp_path, changes):
    qk.prepare_model(model, QLoRAConfig(rank=4, untie=True, **changes))
    with pytest.raises(qk.InputError, match="TRL multiplies the head's weight itself"):
        trainer(model, rows, tmp_path)
