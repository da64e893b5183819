"""QLoRA in HF's Trainer: python hf_trainer.py MODEL TEXT OUT; run again, it goes on."""

import sys
from pathlib import Path

import torch
import transformers as hf

import qlora_kernels as qk
from qlora_kernels.integrations.transformers import QLoRACallback

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
model = hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
qk.prepare_model(model, qk.QLoRAConfig(rank=8, alpha=16))
ids = hf.AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
rows = [{"input_ids": row, "labels": row} for row in ids[: len(ids) // 64 * 64].view(-1, 64)]
trainer = hf.Trainer(
    model,
    hf.TrainingArguments(
        str(out),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        bf16=True,
        activation_checkpointing=True,
        logging_steps=5,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=rows[:-8],
    eval_dataset=rows[-8:],
    callbacks=[QLoRACallback(), hf.EarlyStoppingCallback(early_stopping_patience=2)],
    optimizers=(qk.optim.AdamW(qk.nn.adapter_parameters(model).values(), lr=1e-3), None),
)
trainer.remove_callback(hf.PrinterCallback)  # QLoRACallback prints a line of its own
trainer.train(resume_from_checkpoint=any(out.glob("checkpoint-*")))
trainer.save_model()  # the best adapter, as each checkpoint a peft folder; never the base
