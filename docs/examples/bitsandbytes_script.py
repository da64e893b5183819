"""Written for bitsandbytes, one import changed: python bitsandbytes_script.py MODEL TEXT OUT."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import qlora_kernels.compat.bitsandbytes as bnb  # it was: import bitsandbytes as bnb


def in_4_bits(model: torch.nn.Module) -> torch.nn.Module:
    """Every linear layer but the head."""
    for name, old in list(model.named_modules()):
        if isinstance(old, torch.nn.Linear) and name != "lm_head":
            layer = bnb.nn.LinearNF4(old.in_features, old.out_features, old.bias is not None)
            layer.load_state_dict(old.state_dict())
            model.set_submodule(name, layer)
    return model.to("cpu")  # quantizes


path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
model = in_4_bits(AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16))
ids = AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
*batches, held_out = ids[: len(ids) // 256 * 256].view(-1, 4, 64)
trained = [p for name, p in model.named_parameters() if "norm" in name or "embed" in name]
optimizer = bnb.optim.PagedAdamW8bit(trained, lr=1e-3)
for epoch in range(3):
    for batch in batches:
        model.train()(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loss = model.eval()(input_ids=held_out, labels=held_out).loss.item()
    print(f"epoch {epoch + 1}  held-out loss {loss:.6f}")
out.mkdir(parents=True, exist_ok=True)
torch.save(model.state_dict(), out / "model.pt")
fresh = in_4_bits(AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)).eval()
fresh.load_state_dict(torch.load(out / "model.pt"))  # bitsandbytes refuses its own keys here
print(f"reloaded {fresh(input_ids=held_out, labels=held_out).loss.item():.6f}")
