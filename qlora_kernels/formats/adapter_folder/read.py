"""A peft folder to an AdapterFolder: every tensor has a meaning, a shape that fits and no NaN."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter import DROPOUT_ON
from qlora_kernels.formats.adapter_folder.config import read_config
from qlora_kernels.formats.adapter_folder.folder import (
    AdapterFolder,
    AdapterFolderConfig,
    LayerFactors,
    TokenRows,
)
from qlora_kernels.formats.adapter_folder.header import Header, read_header
from qlora_kernels.formats.adapter_folder.patterns import check_effort

PREFIX = "base_model.model."
DROPOUT_ON_KEY = "qlora_dropout_on"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt")

# End of a key -> where the tensor belongs and as what.
PARTS = {
    ".lora_A.weight": ("layers", "A"),
    ".lora_B.weight": ("layers", "B"),
    ".lora_embedding_A": ("embeddings", "A"),
    ".lora_embedding_B": ("embeddings", "B"),
    ".lora_magnitude_vector": ("magnitudes", ""),
    ".lora_magnitude_vector.weight": ("magnitudes", ""),
    ".token_adapter.trainable_tokens_delta": ("rows", ""),
    ".base_layer.bias": ("biases", ""),
}
# peft saves these whole where they are targeted or were resized (its EMBEDDING_LAYER_NAMES).
_EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass
class _Keys:
    """Layer name -> key in the file, by meaning."""

    layers: dict[str, dict[str, str]] = field(default_factory=dict)
    embeddings: dict[str, dict[str, str]] = field(default_factory=dict)
    magnitudes: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)


def read_adapter_folder(folder: str | Path) -> AdapterFolder:
    """Read what peft or `write_adapter_folder` wrote; tensors keep their dtype.

    Raises InputError, and unpickles and follows nothing, for a folder that is incomplete, not LoRA
    or DoRA, or inconsistent: unknown keys, A without B, ranks that disagree, NaN, duplicates.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / WEIGHTS_FILE
    pickle = next((name for name in _PICKLES if (folder / name).exists()), None)
    if pickle and not path.exists():
        raise InputError(
            f"adapter: {folder} should hold {WEIGHTS_FILE}, holds {pickle}, which is a program "
            "(a pickle) and is not opened"
        )
    header = read_header(path)
    dropout_on = header.metadata.get(DROPOUT_ON_KEY, "input")
    if dropout_on not in DROPOUT_ON:
        raise InputError(f"adapter: {DROPOUT_ON_KEY} should be rank or input, was {dropout_on!r}")
    config = replace(config, dropout_on=dropout_on)
    keys = _sort(path, header, config)
    _check_shapes(path, header, keys, config)
    return _load(path, keys, config)


def _sort(path: Path, header: Header, config: AdapterFolderConfig) -> _Keys:
    """Give every key its meaning by its end; refuse those without one."""
    keys = _Keys()
    seen: dict[str, str] = {}
    for key in header.shapes:
        name = key.removeprefix(PREFIX)
        if name in seen:
            raise InputError(
                f"adapter: {path} should hold {name} once, holds {seen[name]} and {key}"
            )
        seen[name] = key
        end = next((end for end in PARTS if name.endswith(end)), "")
        layer = name.removesuffix(end)
        kind, part = PARTS.get(end, ("", ""))
        if part:
            getattr(keys, kind).setdefault(layer, {})[part] = key
        elif kind:
            getattr(keys, kind)[layer] = key
        elif not _sort_replacement(name, key, keys, config):
            raise InputError(f"adapter: {path}: {key} should be a LoRA factor, is not")
    for layer in keys.magnitudes:
        if layer not in keys.layers and layer not in keys.embeddings:
            raise InputError(f"adapter: {path}: {layer} should have A and B, has a magnitude alone")
    return keys


def _sort_replacement(name: str, key: str, keys: _Keys, config: AdapterFolderConfig) -> bool:
    """A tensor that takes the place of the base's: whether it may."""
    plain = name.replace(".base_layer.", ".")
    if is_saved(plain, config) or is_embedding(plain):
        keys.saved[plain] = key
    elif config.bias == "all" and name.endswith(".bias"):
        keys.biases[name.removesuffix(".bias")] = key
    else:
        return False
    return True


def is_saved(parameter: str, config: AdapterFolderConfig) -> bool:
    """Whether modules_to_save names a module that holds the parameter: by its end, as in peft."""
    parts = parameter.split(".")
    modules = [".".join(parts[:count]) for count in range(1, len(parts))]
    return any(module.endswith(name) for module in modules for name in config.modules_to_save)


def is_embedding(parameter: str) -> bool:
    """Whether this is the weight of an embedding or a head by its usual name."""
    return parameter.split(".")[-2:] in [[name, "weight"] for name in _EMBEDDINGS]


def _check_shapes(path: Path, header: Header, keys: _Keys, config: AdapterFolderConfig) -> None:
    """Refuse parts that do not fit each other, from the header alone."""
    adapted = {**keys.layers, **keys.embeddings}
    check_effort((*config.rank_pattern, *config.alpha_pattern), len(adapted))
    for layer, pair in adapted.items():
        shapes = {part: list(header.shapes[key]) for part, key in sorted(pair.items())}
        a, b = shapes.get("A", []), shapes.get("B", [])
        if not (len(a) == len(b) == 2 and a[0] == b[1]):
            raise InputError(
                f"adapter: {path}: {layer} should have A [r, in] and B [out, r], has {shapes}"
            )
        if a[0] != config.rank_of(layer):
            raise InputError(
                f"adapter: {path}: {layer} should have rank {config.rank_of(layer)} by its "
                f"config, has {shapes}"
            )
        magnitude = keys.magnitudes.get(layer)
        if config.dora != (magnitude is not None):
            has = "has a magnitude" if magnitude else "has no magnitude"
            raise InputError(f"adapter: {path}: {layer} {has}, and use_dora is {config.dora}")
        if magnitude and list(header.shapes[magnitude]) != [b[0]] and layer in keys.layers:
            was = list(header.shapes[magnitude])
            raise InputError(f"adapter: {path}: {layer} should have magnitude [{b[0]}], has {was}")
    if not (adapted or keys.rows or keys.saved or keys.biases):
        raise InputError(f"adapter: {path} should hold a LoRA factor, holds none")
    for layer, key in keys.biases.items():
        if len(header.shapes[key]) != 1:
            raise InputError(
                f"adapter: {path}: {layer} should have a bias [out], has {list(header.shapes[key])}"
            )


def _load(path: Path, keys: _Keys, config: AdapterFolderConfig) -> AdapterFolder:
    with safe_open(path, framework="pt") as file:

        def tensor(key: str) -> torch.Tensor:
            # A copy: what the library gives may be pages of the file, which others can change.
            value: torch.Tensor = file.get_tensor(key).clone()
            if not value.isfinite().all():
                raise InputError(f"adapter: {path}: {key} should be finite, is not")
            return value

        def factors(layer: str, pair: Mapping[str, str]) -> LayerFactors:
            a, b = tensor(pair["A"]), tensor(pair["B"])
            magnitude = keys.magnitudes.get(layer)
            scaling = config.scaling(config.alpha_of(layer), a.shape[0])
            return LayerFactors(a, b, scaling, tensor(magnitude) if magnitude else None)

        return AdapterFolder(
            layers={layer: factors(layer, pair) for layer, pair in keys.layers.items()},
            embeddings={layer: factors(layer, pair) for layer, pair in keys.embeddings.items()},
            biases={layer: tensor(key) for layer, key in keys.biases.items()},
            saved_modules={name: tensor(key) for name, key in keys.saved.items()},
            token_rows={
                layer: _token_rows(path, layer, tensor(key), config.raw)
                for layer, key in keys.rows.items()
            },
            config=config,
        )


def _token_rows(path: Path, layer: str, rows: torch.Tensor, raw: Mapping[str, Any]) -> TokenRows:
    """The rows with their indices, which the config holds: a list, or one for each embedding."""
    told = raw.get("trainable_token_indices") or []
    if isinstance(told, dict):
        told = next((t for name, t in told.items() if f".{layer}".endswith(f".{name}")), [])
    if rows.dim() != 2 or len(told) != rows.shape[0] or len(set(told)) != len(told):
        raise InputError(
            f"adapter: {path}: {layer} should have a row for each of {len(told)} different tokens, "
            f"has {list(rows.shape)}"
        )
    return TokenRows(tuple(told), rows)
