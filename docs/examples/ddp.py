"""QLoRA in two processes: torchrun --nproc-per-node 2 ddp.py MODEL TEXT OUT; run again, goes on."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import AutoModelForCausalLM, AutoTokenizer

import qlora_kernels as qk

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).train()
qk.prepare_model(model, qk.QLoRAConfig(rank=8, alpha=16)).activation_checkpointing_enable()
ids = AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
*pairs, (held_out, _) = ids[: len(ids) // 512 * 512].view(-1, 2, 4, 64)
optimizer = qk.optim.AdamW(qk.nn.adapter_parameters(model).values(), lr=1e-3)
plateau = ReduceLROnPlateau(optimizer)  # also counts epochs, and those that were no better
if (out / "run.pt").exists():
    qk.load_adapter(model, out / "last")
    for part, state in zip((optimizer, plateau), torch.load(out / "run.pt"), strict=True):
        part.load_state_dict(state)
net = torch.nn.parallel.DistributedDataParallel(model)  # gives all processes the first's adapters
while plateau.last_epoch < 3 and plateau.num_bad_epochs < 2:
    for pair in pairs:  # the gradients of two batches add up, and are shared once
        for batch, sharing in zip(pair, (net.no_sync, torch.enable_grad), strict=True):
            mine = batch[dist.get_rank() :: dist.get_world_size()]
            with sharing():
                (net(input_ids=mine, labels=mine).loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    plateau.step(model(input_ids=held_out, labels=held_out).loss.item())
    if dist.get_rank() == 0:
        print(f"epoch {plateau.last_epoch}  best held-out loss {plateau.best:.4f}")
        qk.save_adapter(model, out / "last")
        torch.save((optimizer.state_dict(), plateau.state_dict()), out / "run.pt")
dist.destroy_process_group()
