"""Adapter folders for readers that know less than peft: exact where it can be, told where not.

What they read, checked in their sources:

    vLLM        lora/peft_helper.py: one r and one lora_alpha for all layers (no patterns), rsLoRA
                by that r; refuses use_dora, modules_to_save and bias, and r above
                --max-lora-rank: 16 by default and one of config/lora.py's MaxLoRARanks
    llama.cpp   convert_lora_to_gguf.py: one lora_alpha, divided by each tensor's own rank when it
                runs; no rsLoRA, no patterns; ends at any tensor but A, B and norms, passes over
                base_layer.weight, and fails for lm_head where the base ties it
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from qlora_kernels.formats.adapter_folder import AdapterFolder, LayerFactors

READERS = ("peft", "vllm", "llama.cpp")
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_DEFAULT_RANK = 16


def for_reader(folder: AdapterFolder, reader: str) -> tuple[AdapterFolder, list[str]]:
    """The folder as the reader understands it, and a line for each thing that it will refuse.

    peft gets it as it is. For the others `s B A` is told by one rank and one alpha, without rsLoRA:
    alpha becomes `alpha sqrt(r)` where the layers are alike; where they are not, factors are padded
    with zeros to the largest rank and B takes the scaling.
    """
    if reader == "peft":
        return folder, []
    told = _alike(folder)
    return told, (_vllm if reader == "vllm" else _llama_cpp)(told)


def _alike(folder: AdapterFolder) -> AdapterFolder:
    every = {**folder.layers, **folder.embeddings}
    config = replace(
        folder.config, rslora=False, rank_pattern={}, alpha_pattern={}, target_modules=None
    )
    if len({(f.rank, f.scaling) for f in every.values()}) == 1:
        one = next(iter(every.values()))
        return replace(folder, config=replace(config, r=one.rank, alpha=one.scaling * one.rank))
    rank = max(f.rank for f in every.values())

    def padded(group: Mapping[str, LayerFactors]) -> dict[str, LayerFactors]:
        return {name: _padded(factors, rank) for name, factors in group.items()}

    return replace(
        folder,
        config=replace(config, r=rank, alpha=rank),
        layers=padded(folder.layers),
        embeddings=padded(folder.embeddings),
    )


def _padded(factors: LayerFactors, rank: int) -> LayerFactors:
    """The same update with that rank and a scaling of 1."""
    more = rank - factors.rank
    a = torch.nn.functional.pad(factors.a, (0, 0, 0, more))
    b = torch.nn.functional.pad(factors.b * factors.scaling, (0, more))
    return LayerFactors(a, b, 1.0, factors.magnitude)


def _vllm(folder: AdapterFolder) -> list[str]:
    rank, lines = folder.config.r, []
    if rank > VLLM_RANKS[-1]:
        lines.append(f"vLLM refuses ranks above {VLLM_RANKS[-1]}, this is {rank}")
    elif rank > VLLM_DEFAULT_RANK:
        needed = min(r for r in VLLM_RANKS if r >= rank)
        lines.append(f"vLLM refuses rank {rank} unless it is started with --max-lora-rank {needed}")
    if _has_magnitude(folder):
        lines.append("vLLM refuses DoRA: merge it (--to 16bit)")
    if folder.saved_modules:
        lines.append("vLLM refuses modules that were trained whole: merge them (--to 16bit)")
    if folder.biases:
        lines.append("vLLM refuses biases: merge them (--to 16bit)")
    if folder.token_rows:
        lines.append("vLLM refuses rows of tokens: merge them (--to 16bit)")
    return lines


def _llama_cpp(folder: AdapterFolder) -> list[str]:
    lines = []
    if _has_magnitude(folder):
        lines.append("llama.cpp refuses DoRA: merge it (--to 16bit)")
    for what, held in (
        ("modules that were trained whole", folder.saved_modules),
        ("biases", folder.biases),
        ("rows of tokens", folder.token_rows),
    ):
        if held:
            lines.append(f"llama.cpp refuses {what}: merge them (--to 16bit)")
    if "lm_head" in folder.layers:
        lines.append("llama.cpp refuses an adapter of lm_head where the base ties it")
    return lines


def _has_magnitude(folder: AdapterFolder) -> bool:
    return any(f.magnitude is not None for f in folder.layers.values())
