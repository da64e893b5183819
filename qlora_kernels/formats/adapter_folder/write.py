"""An AdapterFolder to a peft folder that stock peft loads: whole or not at all."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file

from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder, write_text
from qlora_kernels.formats.adapter_folder.config import CONFIG_FILE
from qlora_kernels.formats.adapter_folder.folder import AdapterFolder, LayerFactors
from qlora_kernels.formats.adapter_folder.patterns import first_match
from qlora_kernels.formats.adapter_folder.read import (
    DROPOUT_ON_KEY,
    PREFIX,
    WEIGHTS_FILE,
    is_embedding,
    is_saved,
)

NO_TARGETS = "dummy-target-modules"  # peft's word: an empty list is an error to it

_Value = TypeVar("_Value", int, float)


def write_adapter_folder(folder: AdapterFolder, path: str | Path) -> None:
    """Write a folder of exactly these layers; ranks and alphas are those of the factors.

    `config` gives the rest: r, rank_pattern, alpha, alpha_pattern and dora are found anew, so that
    a reader of the file gets each layer's `scaling` back. Raises InputError for an adapter that
    peft cannot express and where the folder cannot be written.
    """
    factors = {**folder.layers, **folder.embeddings}
    if not (factors or folder.token_rows or folder.biases or folder.saved_modules):
        raise InputError("write_adapter_folder: folder should hold something, is empty")
    with_magnitude = {f.magnitude is not None for f in factors.values()}
    if len(with_magnitude) > 1:
        raise InputError(
            "write_adapter_folder: either every layer should have a magnitude or none, some have"
        )
    tensors = {
        key: t.detach().cpu().contiguous().clone() for key, t in peft_tensors(folder).items()
    }
    metadata = {"format": "pt", DROPOUT_ON_KEY: folder.config.dropout_on}
    fields = peft_fields(folder)
    with whole_folder(path) as temporary:
        save_file(tensors, temporary / WEIGHTS_FILE, metadata=metadata)
        write_text(temporary / CONFIG_FILE, json.dumps(fields, indent=2) + "\n")


def peft_fields(folder: AdapterFolder) -> dict[str, Any]:
    """adapter_config.json: the commonest rank and alpha, and patterns for the rest."""
    config = folder.config
    factors = {**folder.layers, **folder.embeddings}
    ranks = {name: f.rank for name, f in factors.items()}
    alphas = {name: _alpha(folder, name, f) for name, f in factors.items()}
    rank = _commonest(ranks, config.r)
    alpha = _commonest(alphas, config.alpha)
    targets = config.target_modules
    dora = any(f.magnitude is not None for f in factors.values())
    fields = {
        "peft_type": "LORA",
        "task_type": config.raw.get("task_type", "CAUSAL_LM"),
        "base_model_name_or_path": config.base_model,
        "revision": config.raw.get("revision"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": dora,
        "rank_pattern": _patterns(ranks, rank),
        "alpha_pattern": _patterns(alphas, alpha),
        # A regular expression is not handed on: a hostile one hangs peft.
        "target_modules": list(targets)
        if targets and not isinstance(targets, str)
        else sorted(factors) or NO_TARGETS,
        "modules_to_save": _modules_to_save(folder) or None,
        "bias": config.bias,
        "fan_in_fan_out": bool(config.raw.get("fan_in_fan_out")),
        "init_lora_weights": True,
    }
    if folder.token_rows:
        fields["trainable_token_indices"] = {
            name: list(rows.indices) for name, rows in folder.token_rows.items()
        }
    return fields


def _commonest(values: Mapping[str, _Value], default: _Value) -> _Value:
    return Counter(values.values()).most_common(1)[0][0] if values else default


def _modules_to_save(folder: AdapterFolder) -> list[str]:
    """The config's, and those of saved parameters that a reader would not look for."""
    names = set(folder.config.modules_to_save)
    for parameter in folder.saved_modules:
        if not (is_saved(parameter, folder.config) or is_embedding(parameter)):
            names.add(parameter.rpartition(".")[0])
    return sorted(names)


def _alpha(folder: AdapterFolder, name: str, factors: LayerFactors) -> float:
    """The alpha that gives the layer's scaling back: the config's if it does, or a short one."""
    config, exact = folder.config, factors.scaling / folder.config.scaling(1.0, factors.rank)
    for alpha in (config.alpha_of(name), round(exact, 6), exact):
        if config.scaling(alpha, factors.rank) == factors.scaling:
            break
    return int(alpha) if float(alpha).is_integer() else alpha


def _patterns(values: Mapping[str, _Value], default: _Value) -> dict[str, _Value]:
    """{name: value} for the layers that differ, as plain names where these select no other."""
    patterns = {n: v for n, v in values.items() if v != default}
    if all(first_match(patterns, n, default) == v for n, v in values.items()):
        return patterns
    return {f"^{re.escape(n)}": v for n, v in patterns.items()}


def peft_tensors(folder: AdapterFolder) -> dict[str, torch.Tensor]:
    """Key in adapter_model.safetensors -> tensor of everything in the folder, not copied."""
    found: dict[str, torch.Tensor] = {}
    for ends, group in (
        ((".lora_A.weight", ".lora_B.weight"), folder.layers),
        ((".lora_embedding_A", ".lora_embedding_B"), folder.embeddings),
    ):
        for name, factors in group.items():
            found[name + ends[0]], found[name + ends[1]] = factors.a, factors.b
            if factors.magnitude is not None:
                found[f"{name}.lora_magnitude_vector"] = factors.magnitude
    adapted = {*folder.layers, *folder.embeddings}
    for name, bias in folder.biases.items():
        found[f"{name}.base_layer.bias" if name in adapted else f"{name}.bias"] = bias
    for name, tensor in folder.saved_modules.items():
        module, _, parameter = name.rpartition(".")
        found[f"{module}.base_layer.{parameter}" if module in adapted else name] = tensor
    for name, rows in folder.token_rows.items():
        found[f"{name}.token_adapter.trainable_tokens_delta"] = rows.rows
    return {PREFIX + key: tensor for key, tensor in found.items()}
