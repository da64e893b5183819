"""Adapters on disk in peft's format: adapter_config.json and adapter_model.safetensors.

    base_model.model.<layer>.lora_A.weight   [rank, in]   float32
    base_model.model.<layer>.lora_B.weight   [out, rank]  float32

The scaling is alpha / r (alpha / sqrt(r) with use_rslora), with r and alpha per layer through
rank_pattern and alpha_pattern. peft knows dropout on A's input only; where it falls here is kept in
the safetensors metadata.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.files import whole_folder, write_text
from qlora_kernels.formats.adapter import DROPOUT_ON
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.surgery import quantized_layers

_PREFIX = "base_model.model."
_DROPOUT_ON = "qlora_dropout_on"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_REFUSED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "use_qalora")


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write the model's adapters as a peft folder, whole or not at all.

    Raises InputError for a model without adapters, and where the folder cannot be written.
    """
    layers = {n: m for n, m in quantized_layers(model).items() if m.lora_a is not None}
    if not layers:
        raise InputError("save_adapter: model should have adapters, has none")
    tensors = {
        f"{_PREFIX}{name}.lora_{part}.weight": factor.detach().cpu().contiguous()
        for name, layer in layers.items()
        for part, factor in (("A", layer.lora_a), ("B", layer.lora_b))
        if factor is not None
    }
    any_layer = next(iter(layers.values()))
    metadata = {"format": "pt", _DROPOUT_ON: any_layer.dropout_on}
    with whole_folder(folder) as temporary:
        save_file(tensors, temporary / _WEIGHTS, metadata=metadata)
        write_text(temporary / _CONFIG, json.dumps(_peft_config(model, layers), indent=2) + "\n")


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Give a prepared model the adapters of a peft folder, in place of those it has.

    Factors of the same shape are copied into the parameters that an optimizer may hold already;
    layers that the folder does not name lose their adapter. Raises InputError, before anything is
    changed, for an unreadable or foreign folder and for layers or shapes that do not fit.
    """
    config = read_adapter_config(folder)
    tensors, metadata = _read_tensors(Path(folder) / _WEIGHTS)
    layers = quantized_layers(model)
    if not layers:
        raise InputError(
            "load_adapter: model should be prepared (prepare_model), has no QLoRALinear"
        )
    factors = _factors(tensors, layers, folder)
    dropout_on = metadata.get(_DROPOUT_ON, "input")
    if dropout_on not in DROPOUT_ON:
        raise InputError(f"load_adapter: {_DROPOUT_ON} should be rank or input, was {dropout_on!r}")
    for name, layer in layers.items():
        if name not in factors:
            layer.remove_adapter()
            continue
        layer.set_adapter(*factors[name], config.alpha_of(name), config.rslora)
        layer.dropout, layer.dropout_on = config.dropout, dropout_on


def read_adapter_config(folder: str | Path) -> QLoRAConfig:
    """The QLoRAConfig that a peft folder's adapter_config.json describes (its base format:
    default).

    Raises InputError for an unreadable file, a kind that is not LoRA, and values that make no
    sense.
    """
    path = Path(folder) / _CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"adapter: {path} should be readable JSON: {error}") from None
    if not isinstance(fields, dict) or fields.get("peft_type") != "LORA":
        raise InputError(f"adapter: {path} should describe a LORA adapter, does not")
    unknown = [name for name in _REFUSED if fields.get(name)]
    if unknown:
        raise InputError(f"adapter: {path} should be plain LoRA, uses {', '.join(unknown)}")
    try:
        return QLoRAConfig(
            rank=fields["r"],
            alpha=fields["lora_alpha"],
            dropout=fields.get("lora_dropout") or 0.0,
            rslora=bool(fields.get("use_rslora")),
            rank_pattern=fields.get("rank_pattern") or {},
            alpha_pattern=fields.get("alpha_pattern") or {},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"adapter: {path} should describe r and lora_alpha: {error}") from None


def _peft_config(model: nn.Module, layers: dict[str, QLoRALinear]) -> dict[str, Any]:
    """adapter_config.json: the commonest rank and alpha, and patterns for the rest."""
    ranks = {n: m.lora_a.shape[0] for n, m in layers.items() if m.lora_a is not None}
    alphas = {n: m.alpha for n, m in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    any_layer = next(iter(layers.values()))
    base = getattr(getattr(model, "config", None), "_name_or_path", None)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": any_layer.dropout,
        "use_rslora": any_layer.rslora,
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
        "target_modules": _shortest_targets(model, layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _shortest_targets(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[str]:
    """Last parts of the names where these choose exactly our layers, else the whole names."""
    suffixes = sorted({n.rpartition(".")[2] for n in layers})
    meant = {n for n, _ in model.named_modules() if n.rpartition(".")[2] in suffixes}
    return suffixes if meant == set(layers) else sorted(layers)


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"adapter: {path} should be a readable safetensors file: {error}"
        ) from None


def _factors(
    tensors: dict[str, torch.Tensor], layers: dict[str, QLoRALinear], folder: str | Path
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> (A, B), every tensor accounted for and of the right shape."""
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix(_PREFIX).rpartition(".lora_")
        if part not in ("A.weight", "B.weight") or name not in layers:
            near = "a layer of the model" if part in ("A.weight", "B.weight") else "a LoRA factor"
            raise InputError(f"load_adapter: {folder}: {key} should be {near}, is not")
        if not tensor.isfinite().all():
            raise InputError(f"load_adapter: {folder}: {key} should be finite, is not")
        pairs.setdefault(name, {})[part[0]] = tensor
    for name, pair in pairs.items():
        a, b, layer = pair.get("A"), pair.get("B"), layers[name]
        fits = a is not None and b is not None and a.dim() == b.dim() == 2
        if not fits or (a.shape[1], b.shape[0], a.shape[0]) != (  # type: ignore[union-attr]
            layer.in_features,
            layer.out_features,
            b.shape[1],  # type: ignore[union-attr]
        ):
            was = {part: list(t.shape) for part, t in pair.items()}
            raise InputError(
                f"load_adapter: {folder}: {name} should have A [r, {layer.in_features}] and "
                f"B [{layer.out_features}, r], has {was}"
            )
    return {name: (pair["A"], pair["B"]) for name, pair in pairs.items()}
