"""4 bits in from_pretrained, peft, the Trainer: python transformers_quantizer.py MODEL TEXT OUT."""

import sys
from pathlib import Path

import torch
import transformers as hf
from peft import LoraConfig

from qlora_kernels.integrations.peft import get_peft_model
from qlora_kernels.integrations.transformers import NF4Config

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
config = NF4Config("nf4", block_size=64, double_quant=True)
model = hf.AutoModelForCausalLM.from_pretrained(path, quantization_config=config)
model.save_pretrained(out / "base")  # codes and scales: as small as they are in memory
model = hf.AutoModelForCausalLM.from_pretrained(out / "base")  # every bit as it was
print(f"{model.get_memory_footprint() / 2**20:.1f} MiB")

lora = LoraConfig("CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
ids = hf.AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
rows = [{"input_ids": row, "labels": row} for row in ids[: len(ids) // 64 * 64].view(-1, 64)]
trainer = hf.Trainer(
    get_peft_model(model, lora),
    hf.TrainingArguments(
        str(out / "run"),
        learning_rate=1e-3,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        bf16=True,
        activation_checkpointing=True,
        save_strategy="epoch",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=rows,
)
trainer.train()
trainer.save_model(str(out / "adapter"))
