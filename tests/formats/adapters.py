"""Small adapters for the tests of folders, and ways to spoil the files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qlora_kernels.formats.adapter_folder import AdapterFolder, AdapterFolderConfig, LayerFactors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LAYERS = ("model.layers.0.q_proj", "model.layers.1.q_proj")


def factors(
    rank: int, num_in: int, num_out: int, scaling: float, magnitude: bool = False
) -> LayerFactors:
    a, b = torch.randn(rank, num_in), torch.randn(num_out, rank)
    return LayerFactors(a, b, scaling, torch.rand(num_out) if magnitude else None)


def folder(magnitude: bool = False) -> AdapterFolder:
    layers = {name: factors(4, 12, 10, 2.0, magnitude) for name in LAYERS}
    return AdapterFolder(layers=layers, config=AdapterFolderConfig(r=4, alpha=8))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, path / WEIGHTS_FILE, metadata={"format": "pt"})


def edit_config(path: Path, **changes: Any) -> None:
    fields = json.loads((path / CONFIG_FILE).read_text()) | changes
    (path / CONFIG_FILE).write_text(json.dumps(fields))


def edit_header(path: Path, change: Callable[[str], str]) -> None:
    """Change the header's text and leave the tensors' bytes."""
    raw = (path / WEIGHTS_FILE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = change(raw[8 : 8 + length].decode()).encode()
    header += b" " * (-len(header) % 8)
    (path / WEIGHTS_FILE).write_bytes(
        len(header).to_bytes(8, "little") + header + raw[8 + length :]
    )
