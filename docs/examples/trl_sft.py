"""QLoRA in TRL's SFTTrainer: python trl_sft.py MODEL TEXT OUT; run again, it goes on."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback
from trl import SFTConfig, SFTTrainer

import qlora_kernels as qk
from qlora_kernels.integrations.transformers import QLoRACallback

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
qk.prepare_model(model, qk.QLoRAConfig(rank=8, alpha=16))
poems = Dataset.from_dict({"text": text.read_text().split("\n\n")}).train_test_split(0.2, seed=0)
trainer = SFTTrainer(
    model,
    SFTConfig(
        str(out),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        max_length=64,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=poems["train"],
    eval_dataset=poems["test"],
    processing_class=AutoTokenizer.from_pretrained(path),
    callbacks=[QLoRACallback(), EarlyStoppingCallback(early_stopping_patience=2)],
    optimizers=(qk.optim.AdamW(qk.nn.adapter_parameters(model).values(), lr=1e-3), None),
)
trainer.train(resume_from_checkpoint=any(out.glob("checkpoint-*")))
trainer.save_model()  # the best adapter, as each checkpoint a peft folder; never the base
