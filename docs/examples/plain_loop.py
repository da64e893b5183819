"""QLoRA in a loop of your own: python plain_loop.py MODEL TEXT OUT; run again, it goes on."""

import sys
from pathlib import Path

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import AutoModelForCausalLM, AutoTokenizer

import qlora_kernels as qk

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(device).train()
qk.prepare_model(model, qk.QLoRAConfig(rank=8, alpha=16))
model.activation_checkpointing_enable()
ids = AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
*batches, held_out = ids[: len(ids) // 256 * 256].view(-1, 4, 64).to(device)

optimizer = qk.optim.AdamW(qk.nn.adapter_parameters(model).values(), lr=1e-3)
plateau = ReduceLROnPlateau(optimizer)  # also counts epochs, and those that were no better
if (out / "run.pt").exists():
    qk.load_adapter(model, out / "last")
    for part, state in zip((optimizer, plateau), torch.load(out / "run.pt"), strict=True):
        part.load_state_dict(state)

while plateau.last_epoch < 3 and plateau.num_bad_epochs < 2:
    for batch in batches:
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        loss = model(input_ids=held_out, labels=held_out).loss.item()
    plateau.step(loss)
    print(f"epoch {plateau.last_epoch}  held-out loss {loss:.4f}  best {plateau.best:.4f}")
    for name in ["last"] if plateau.num_bad_epochs else ["last", "best"]:
        qk.save_adapter(model, out / name)  # a peft folder: adapters, never the base
    torch.save((optimizer.state_dict(), plateau.state_dict()), out / "run.pt")
