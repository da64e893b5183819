"""Adapters of a model on disk, as peft folders (`formats/adapter_folder` says what is in one)."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.formats.adapter_folder import (
    AdapterFolder,
    AdapterFolderConfig,
    LayerFactors,
    read_adapter_folder,
    read_config,
    write_adapter_folder,
)
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.embedding_files import (
    adapted_factors,
    beside_factors,
    check_embeddings,
    rows_of_tokens,
    set_embeddings,
)
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.saved_modules import (
    check_saved,
    saved_modules,
    saved_parameters,
    set_saved,
)
from qlora_kernels.nn.surgery import adapter_parameters, quantized_layers
from qlora_kernels.nn.trained_biases import bias_word, check_biases, set_biases, trained_biases


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write the model's adapters as a peft folder, whole or not at all.

    Raises InputError for a model without adapters, and where the folder cannot be written.
    """
    write_adapter_folder(adapters_of(model), folder)


def adapters_of(model: nn.Module) -> AdapterFolder:
    """What `save_adapter` writes, as a value; it shares memory with the model.

    Raises InputError for a model without adapters.
    """
    every = quantized_layers(model)
    layers = {n: m for n, m in every.items() if m.lora_a is not None}
    embeddings = adapted_factors(model)
    if not every or not adapter_parameters(model):  # unprepared, everything would be trained
        raise InputError("save_adapter: model should have adapters, has none")
    adapted: dict[str, Any] = {**layers, **{n: model.get_submodule(n) for n in embeddings}}
    first = next(iter(adapted.values()), None)  # None: rows of tokens, biases or modules alone
    alphas = {n: m.alpha for n, m in adapted.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0] if alphas else 1
    config = AdapterFolderConfig(
        r=1 if first is None else first.lora_a.shape[0],
        alpha=alpha,
        alpha_pattern={n: a for n, a in alphas.items() if a != alpha},
        rslora=getattr(first, "rslora", False),
        dora=any(m.lora_magnitude is not None for m in layers.values()),
        dropout=getattr(first, "dropout", 0.0),  # an embedding has none
        dropout_on=getattr(first, "dropout_on", "rank"),
        base_model=getattr(getattr(model, "config", None), "_name_or_path", None),
        target_modules=_shortest_targets(model, adapted),
        modules_to_save=tuple(saved_modules(model)),
        bias=bias_word(model),
    )
    factors = {name: _factors(layer) for name, layer in layers.items()}
    biases = {name: bias.detach() for name, bias in trained_biases(model).items()}
    saved = {name: parameter.detach() for name, parameter in saved_parameters(model).items()}
    return AdapterFolder(
        layers=factors,
        config=config,
        embeddings=embeddings,
        biases=biases,
        saved_modules=saved,
        token_rows=rows_of_tokens(model),
    )


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Give a prepared model the adapters of a peft folder, in place of those it has.

    Factors of the same shape are copied into the parameters that an optimizer may hold already;
    layers that the folder does not name lose their adapter. Its biases are trained from then on.
    Raises InputError, before anything is changed, for an unreadable or foreign folder, for layers
    or shapes that do not fit, and where a bias that the model trains, or a module that it trains
    whole, is missing. Modules that the folder holds must be trained (`modules_to_save`) already; a
    head or an embedding that it adapts needs a weight of its own (`targets`, `untie`), rows of
    tokens need nothing. Weights that peft saved below such factors take the place of the model's.
    """
    read = read_adapter_folder(folder)
    layers = quantized_layers(model)
    if not layers:
        raise InputError(
            "load_adapter: model should be prepared (prepare_model), has no QLoRALinear"
        )
    who = f"load_adapter: {folder}"
    whole = beside_factors(read)
    _check_fits(who, read, layers)
    check_embeddings(who, model, read)
    check_biases(who, model, read.biases)
    check_saved(who, model, whole)
    config = read.config
    for name, layer in layers.items():
        factors = read.layers.get(name)
        if factors is None:
            layer.remove_adapter()
            continue
        alpha = config.alpha_of(name)
        layer.set_adapter(factors.a, factors.b, alpha, config.rslora, factors.magnitude)
        layer.dropout, layer.dropout_on = config.dropout, config.dropout_on
    set_embeddings(model, read)
    set_biases(model, read.biases)
    set_saved(model, whole)


def read_adapter_config(folder: str | Path) -> QLoRAConfig:
    """The QLoRAConfig that a peft folder's adapter_config.json describes (its base format:
    default).

    Raises InputError for an unreadable file, a kind that is not LoRA, and values that make no
    sense.
    """
    config = read_config(folder)
    return QLoRAConfig(
        rank=config.r,
        alpha=config.alpha,
        dropout=config.dropout,
        rslora=config.rslora,
        dora=config.dora,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        bias=config.bias,
        modules_to_save=config.modules_to_save,
        trainable_tokens=config.raw.get("trainable_token_indices") or (),
    )


def _factors(layer: QLoRALinear) -> LayerFactors:
    assert layer.lora_a is not None and layer.lora_b is not None
    magnitude = None if layer.lora_magnitude is None else layer.lora_magnitude.detach()
    return LayerFactors(layer.lora_a.detach(), layer.lora_b.detach(), layer.scaling, magnitude)


def _shortest_targets(model: nn.Module, layers: Collection[str]) -> list[str]:
    """Last parts of the names where these choose exactly our layers, else the whole names."""
    suffixes = sorted({n.rpartition(".")[2] for n in layers})
    meant = {n for n, _ in model.named_modules() if n.rpartition(".")[2] in suffixes}
    return suffixes if meant == set(layers) else sorted(layers)


def _check_fits(who: str, read: AdapterFolder, layers: Mapping[str, QLoRALinear]) -> None:
    """Refuse factors that no layer of this model has a place for."""
    for name, factors in read.layers.items():
        if name not in layers:
            raise InputError(
                f"{who}: {name} should be a layer of the model that is prepared for an adapter "
                "(a head that targets name), is not"
            )
        n, k = layers[name].out_features, layers[name].in_features
        if (factors.b.shape[0], factors.a.shape[1]) != (n, k):
            was = {"A": list(factors.a.shape), "B": list(factors.b.shape)}
            raise InputError(f"{who}: {name} should have A [r, {k}] and B [{n}, r], has {was}")
