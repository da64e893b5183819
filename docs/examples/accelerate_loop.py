"""QLoRA with accelerate: python accelerate_loop.py MODEL TEXT OUT; run again, it goes on."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import AutoModelForCausalLM, AutoTokenizer

import qlora_kernels as qk

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).train()
qk.prepare_model(model, qk.QLoRAConfig(rank=8, alpha=16)).activation_checkpointing_enable()
ids = AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
rows = ids[: len(ids) // 64 * 64].view(-1, 64)
optimizer = qk.optim.AdamW(qk.nn.adapter_parameters(model).values(), lr=1e-3)
run, plateau = Accelerator(mixed_precision="bf16"), ReduceLROnPlateau(optimizer)
loader = torch.utils.data.DataLoader(rows[:-8], batch_size=4)
net, optimizer, loader = run.prepare(model, optimizer, loader)
held_out = rows[-8:].to(run.device)
run.register_for_checkpointing(plateau)
# A state holds no model: the base never changes, and the adapter is a peft folder beside it.
run.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
run.register_load_state_pre_hook(lambda models, folder: models.clear())
if (out / "state").exists():
    run.load_state(out / "state")
    qk.load_adapter(model, out / "adapter")
while plateau.last_epoch < 3 and plateau.num_bad_epochs < 2:
    for batch in loader:
        run.backward(net(input_ids=batch, labels=batch).loss)
        optimizer.step()
        optimizer.zero_grad()
    plateau.step(model(input_ids=held_out, labels=held_out).loss.item())
    run.print(f"epoch {plateau.last_epoch}  best held-out loss {plateau.best:.4f}")
    if run.is_main_process:
        qk.save_adapter(model, out / "adapter")
    run.save_state(out / "state")
