"""Merging takes the memory of a few tensors, whatever the size of the checkpoint."""

import subprocess
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qlora_kernels.formats.adapter_folder import (
    AdapterFolder,
    AdapterFolderConfig,
    LayerFactors,
    write_adapter_folder,
)

# Prints by how many bytes the peak of the process grew while it merged.
MERGE = """
import resource, sys
import torch, transformers, rich.progress, qlora_kernels.nn.merging, qlora.models
from qlora.export import checkpoint, command, plan, verify
from qlora import cli
torch.set_num_threads(1)
adapter, small, large, output = sys.argv[1:]
def merge(model, to):
    words = ["export", "--model", model, "--adapter", adapter, "--output", output]
    assert cli.main([*words, "--to", to, "--no-verify", "--force"]) == 0
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
for to in ("16bit", "4bit"):
    merge(small, to)  # everything is imported and warm
before = peak()
for to in ("16bit", "4bit"):
    merge(large, to)
print("grown", peak() - before)
"""


def checkpoint_of(layers: int, folder: Path) -> int:
    """A model of that many layers in shards; returns the bytes of its largest tensor."""
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=8,
        vocab_size=256,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01).view(-1)[::7] = -0.02
    model.save_pretrained(folder, max_shard_size="20MB")
    return max(p.numel() * p.element_size() for p in model.parameters())


def test_the_peak_does_not_grow_with_the_checkpoint(tmp_path: Path):
    checkpoint_of(1, tmp_path / "small")
    largest = checkpoint_of(20, tmp_path / "large")
    layer = "model.layers.0.mlp.down_proj"
    factors = LayerFactors(torch.ones(4, 1536) * 1e-3, torch.ones(512, 4), 1.0)
    adapter = AdapterFolder(layers={layer: factors}, config=AdapterFolderConfig(r=4, alpha=4))
    write_adapter_folder(adapter, tmp_path / "adapter")
    size = sum(f.stat().st_size for f in (tmp_path / "large").glob("*.safetensors"))
    folders = [str(tmp_path / name) for name in ("adapter", "small", "large", "output")]
    result = subprocess.run(
        [sys.executable, "-c", MERGE, *folders], capture_output=True, text=True, check=True
    )
    grown = int(result.stdout.split("grown ")[1])
    assert size > 80 * largest
    assert grown < 8 * largest, f"{grown / 2**20:.0f} MiB for a checkpoint of {size / 2**20:.0f}"
