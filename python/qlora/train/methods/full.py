"""Full fine-tuning: every weight is trained, the embeddings and the head too."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import Parameter
from transformers import PreTrainedModel

from qlora.train.methods.method import as_masters, parameter_count
from qlora_kernels.files import whole_folder


class Full:
    """`y = W x` with W itself trained, in float32; a Hugging Face folder, tokenizer included."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        """Makes every parameter a float32 one that wants a gradient."""
        self.model = model.float()
        self.tokenizer = tokenizer
        self.parameters: dict[str, Parameter] = as_masters(dict(model.named_parameters()))

    def save(self, folder: Path) -> None:
        """One safetensors file, whatever the size, and all that `qlora --model` needs."""
        with whole_folder(folder) as temporary:
            self.model.save_pretrained(temporary, max_shard_size="1000GB")
            self.tokenizer.save_pretrained(temporary)

    def load(self, folder: Path) -> None:
        """Copies into the parameters; tied ones are stored once."""
        tensors = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def partner(self, name: str) -> str | None:
        """A trained model's weights are not zero."""
        return None

    def describe(self) -> str:
        """How many."""
        return f"all {parameter_count(self.parameters):,} parameters"
