"""QLoRA on what bitsandbytes wrote: python bitsandbytes_checkpoint.py FOLDER TEXT OUT."""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import qlora_kernels as qk
from qlora_kernels.integrations.transformers import load_bitsandbytes

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
model = load_bitsandbytes(path)  # the same codes and scales, in our layers
model.save_pretrained(out / "base")  # as our own folder, which from_pretrained reads
ids = AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
*batches, held_out = ids[: len(ids) // 256 * 256].view(-1, 4, 64)
print(f"loaded {model(input_ids=held_out, labels=held_out).loss.item():.6f}")
again = AutoModelForCausalLM.from_pretrained(out / "base")
print(f"reloaded {again(input_ids=held_out, labels=held_out).loss.item():.6f}")

qk.prepare_model(model.train(), qk.QLoRAConfig(rank=8, alpha=16, double_quant=True))
optimizer = qk.optim.AdamW(qk.nn.adapter_parameters(model).values(), lr=1e-3)
for batch in batches:
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
qk.save_adapter(model.eval(), out / "adapter")
print(f"trained {model(input_ids=held_out, labels=held_out).loss.item():.6f}")
