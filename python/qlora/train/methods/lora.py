"""Adapters over a frozen base: QLoRA, and LoRA where the base keeps its 16 or 32 bits."""

from pathlib import Path

from torch.nn import Parameter
from transformers import PreTrainedModel

import qlora_kernels as qk


class Lora:
    """`y = W x + s B A x`: trains A and B (and what else the config adapts); a peft folder."""

    def __init__(self, model: PreTrainedModel, rank: int) -> None:
        """Over a model that `prepare_model` has changed."""
        self.model = model
        self.rank = rank
        self.parameters: dict[str, Parameter] = qk.nn.adapter_parameters(model)

    def save(self, folder: Path) -> None:
        """adapter_config.json and adapter_model.safetensors."""
        qk.save_adapter(self.model, folder)

    def load(self, folder: Path) -> None:
        """Copies into the parameters, which the optimizer goes on to hold."""
        qk.load_adapter(self.model, folder)

    def partner(self, name: str) -> str | None:
        """A's is B, and B's is A."""
        layer, _, part = name.rpartition(".")
        other = {"lora_a": "lora_b", "lora_b": "lora_a"}.get(part)
        return f"{layer}.{other}" if other else None

    def describe(self) -> str:
        """Rank, number and kinds of layers, and what is trained beside them."""
        names = qk.nn.describe(self.model).adapted
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in names)
        told = f"adapters of rank {self.rank} on {len(names)} layers: {', '.join(kinds)}"
        beside = [n for n in self.parameters if ".lora_" not in n]
        return f"{told}; beside them {', '.join(beside)}" if beside else told
