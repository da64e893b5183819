"""QLoRA through peft's interface: python peft_adapters.py MODEL TEXT OUT."""

import sys
from pathlib import Path

from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import qlora_kernels as qk
from qlora_kernels.integrations.peft import get_peft_model
from qlora_kernels.integrations.transformers import NF4Config

path, text, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
ids = AutoTokenizer.from_pretrained(path)(text.read_text(), return_tensors="pt").input_ids[0]
*batches, held_out = ids[: len(ids) // 256 * 256].view(-1, 4, 64)


def base() -> PreTrainedModel:
    """In 4 bits, quantized while loading."""
    return AutoModelForCausalLM.from_pretrained(path, quantization_config=NF4Config())


lora = LoraConfig("CAUSAL_LM", r=8, lora_alpha=16, use_dora=True, target_modules="all-linear")
model = get_peft_model(base(), lora).train()  # peft.get_peft_model does the same by now
model.print_trainable_parameters()
optimizer = qk.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for batch in batches * 3:
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval().save_pretrained(out / "adapter")  # as stock peft writes it
print(f"trained {model(input_ids=held_out, labels=held_out).loss.item():.6f}")
model = PeftModel.from_pretrained(base(), out / "adapter")
print(f"reloaded {model(input_ids=held_out, labels=held_out).loss.item():.6f}")
for layer in qk.nn.quantized_layers(model).values():
    qk.requantize(layer, "none")  # 16 bits hold the update, 4 would round most of it away
model.merge_and_unload().dequantize().save_pretrained(out / "merged")
