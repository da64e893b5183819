"""peft over our quantized layers; importing this teaches peft about them.

From then on peft.get_peft_model, PeftModel.from_pretrained and model.add_adapter build their LoRA
layers on our op wherever a base layer is ours.
"""

from qlora_kernels.integrations.peft.layer import QuantizedLoraLinear
from qlora_kernels.integrations.peft.registration import teach_peft
from qlora_kernels.integrations.peft.wrap import get_peft_model

__all__ = ["QuantizedLoraLinear", "get_peft_model"]

teach_peft()
