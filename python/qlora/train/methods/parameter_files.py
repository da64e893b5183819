"""A method's parameters as one safetensors file in a folder of their own."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import Parameter

from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder

NAME = "parameters.safetensors"


class InOneFile:
    """What methods share whose parameters stand beside the model: a folder with one file."""

    parameters: dict[str, Parameter]

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.parameters.items()}
        with whole_folder(folder) as temporary:
            save_file(tensors, temporary / NAME)

    def load(self, folder: Path) -> None:
        """Copy what `save` wrote; raises InputError, before anything is changed, if it misfits."""
        path = folder / NAME
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"train: {path} should be readable: {error}") from None
        held = {name: list(p.shape) for name, p in self.parameters.items()}
        stored = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if stored != held:
            raise InputError(f"train: {path} should hold {held}, holds {stored}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def partner(self, name: str) -> str | None:
        """Virtual tokens are multiplied with the model's weights alone."""
        return None
