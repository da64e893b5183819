"""A model that `NF4Config` quantized, with peft's adapters, in the Trainer; and peft without us."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
import trl
from datasets import Dataset
from peft import PeftModel, prepare_model_for_kbit_training
from safetensors.torch import load_file

from integrations.adapters import IGNORED, base, lora, ours
from integrations.conftest import TINY, TOKENS, logits
from qlora_kernels.integrations.peft import QuantizedLoraLinear, get_peft_model
from qlora_kernels.integrations.transformers import NF4Config
from qlora_kernels.nn import quantized_layers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", IGNORED)


def trainer(folder: Path, steps: int) -> hf.Trainer:
    torch.manual_seed(0)
    model = get_peft_model(base(), lora(lora_dropout=0.1, use_dora=True))
    rows = [{"input_ids": row, "labels": row} for row in TOKENS.repeat(4, 1)]
    options = hf.TrainingArguments(
        str(folder),
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=2,
        save_steps=2,
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
    )
    return hf.Trainer(model, options, train_dataset=rows)


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path):
    trainer(tmp_path / "whole", 4).train()
    trainer(tmp_path / "parts", 2).train()
    trainer(tmp_path / "parts", 4).train(resume_from_checkpoint=True)
    whole, parts = (
        load_file(tmp_path / name / "checkpoint-4" / "adapter_model.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    model = PeftModel.from_pretrained(base(), tmp_path / "parts" / "checkpoint-4")
    assert not torch.equal(logits(model), logits(base()))


@pytest.mark.filterwarnings("ignore")  # TRL's own, of many kinds
def test_trl_takes_a_path_and_the_config(tmp_path: Path):
    """SFTTrainer loads and quantizes the model itself; its adapters are ours, in float32."""
    options = trl.SFTConfig(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        max_length=32,
        model_init_kwargs={"quantization_config": NF4Config()},
        disable_tqdm=True,
        use_cpu=True,
        report_to="none",
    )
    rows = Dataset.from_dict({"text": ["To be, or not to be: that is the question."] * 4})
    sft = trl.SFTTrainer(str(TINY), options, train_dataset=rows, peft_config=lora())
    sft.train()
    layers = [m for m in sft.model.modules() if isinstance(m, QuantizedLoraLinear)]
    assert len(layers) == 4 * 7 and all(m.lora_B["default"].weight.any() for m in layers)
    assert {p.dtype for p in sft.model.parameters() if p.requires_grad} == {torch.float32}


def test_peft_s_preparation_for_training_leaves_the_codes_alone():
    model = base()
    codes = {name: layer.weight.clone() for name, layer in quantized_layers(model).items()}
    model = get_peft_model(prepare_model_for_kbit_training(model), lora())
    model(TOKENS, labels=TOKENS).loss.backward()
    for name, layer in quantized_layers(model.base_model.model).items():
        assert torch.equal(layer.weight, codes[name.removesuffix(".base_layer")])


def test_stock_peft_alone_trains_our_layers(tmp_path: Path):
    """Without our integration: peft's own LoRA layer around ours; its files are the same."""
    program = f"""
import sys, torch, peft, transformers
import qlora_kernels as qk
def base():
    model = transformers.AutoModelForCausalLM.from_pretrained({str(TINY)!r}, dtype=torch.float32)
    return qk.prepare_model(model, qk.QLoRAConfig(targets=()))
config = peft.LoraConfig("CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
model = peft.get_peft_model(base(), config)
tokens = torch.arange(20)[None]
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(2):
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
model.eval().save_pretrained({str(tmp_path)!r})
again = peft.PeftModel.from_pretrained(base(), {str(tmp_path)!r}).eval()
assert torch.equal(again(tokens).logits, model(tokens).logits)
assert not [name for name in sys.modules if name.startswith("qlora_kernels.integrations.")]
torch.save(model(tokens).logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    model = PeftModel.from_pretrained(ours(trained=False).unload(), tmp_path).eval()
    with torch.no_grad():
        found = model(torch.arange(20)[None]).logits
    torch.testing.assert_close(found, torch.load(tmp_path / "logits.pt"), rtol=1e-4, atol=1e-4)
