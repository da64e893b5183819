"""`--from-adapter`: a run that begins where another ended, on the same layers at the same rank."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

import qlora_kernels as qk
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import AdapterFolder, read_adapter_folder

NAMED = 3  # layers in a message


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of `qlora train` that an adapter folder fixes, by field.

    Dropout and all that concerns the optimizer are the new run's matter. Raises InputError for a
    folder that cannot be read.
    """
    read = read_adapter_folder(folder)
    config = read.config
    ranks = {name: factors.rank for name, factors in read.layers.items()}
    alphas = {name: config.alpha_of(name) for name in ranks}
    tokens = [token for rows in read.token_rows.values() for token in rows.indices]
    targets = config.target_modules if config.target_modules is not None else sorted(ranks)
    return {
        "rank": config.r,
        "alpha": float(config.alpha),
        "rank_pattern": {n: r for n, r in ranks.items() if r != config.r} or None,
        "alpha_pattern": {n: a for n, a in alphas.items() if a != config.alpha} or None,
        "rslora": config.rslora,
        "dora": config.dora,
        "targets": targets if isinstance(targets, str) else tuple(targets),
        "trainable_tokens": tuple(sorted({int(token) for token in tokens})),
        "modules_to_save": tuple(config.modules_to_save),
        "untie": bool(read.embeddings or config.modules_to_save),
        "bias": config.bias,
    }


def start_from(model: nn.Module, folder: Path) -> None:
    """Give a prepared model the adapter of a folder; dropout stays as the run has it.

    Raises InputError, before anything is changed, where the model's adapters are on other layers,
    of another rank or counted otherwise than the folder's.
    """
    read = read_adapter_folder(folder)
    layers = {n: m for n, m in qk.nn.quantized_layers(model).items() if m.lora_a is not None}
    _check_layers(folder, read, layers)
    for name, layer in layers.items():
        factors = read.layers[name]
        has = {
            "rank": factors.rank,
            "alpha": read.config.alpha_of(name),
            "rslora": read.config.rslora,
            "dora": factors.magnitude is not None,
        }
        assert layer.lora_a is not None
        wants = {
            "rank": layer.lora_a.shape[0],
            "alpha": layer.alpha,
            "rslora": layer.rslora,
            "dora": layer.lora_magnitude is not None,
        }
        for what, value in has.items():
            if wants[what] != value:
                raise InputError(
                    f"train: {what} of {name} should be {value}, which {folder} has, was"
                    f" {wants[what]} (left out, it is the adapter's)"
                )
    dropouts = {name: (layer.dropout, layer.dropout_on) for name, layer in layers.items()}
    qk.load_adapter(model, folder)
    for name, layer in layers.items():
        layer.dropout, layer.dropout_on = dropouts[name]


def adapter_digest(parameters: Mapping[str, Parameter]) -> str:
    """Of all values that a run starts with."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in parameters.items():
        digest.update(name.encode())
        values = parameter.detach().contiguous().flatten().view(torch.uint8)
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _check_layers(folder: Path, read: AdapterFolder, layers: Mapping[str, Any]) -> None:
    for which, missing in (
        ("which it has no adapter for", sorted(layers.keys() - read.layers.keys())),
        ("which it adapts too", sorted(read.layers.keys() - layers.keys())),
    ):
        if missing:
            named = ", ".join(missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            raise InputError(
                f"train: targets should be the layers of {folder}, {which}: {named}{more}"
                " (left out, they are the adapter's)"
            )
