"""The surgery: every linear layer of a model becomes a QLoRALinear, in place."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.formats import Base, QuantizedTensor, QuantSpec
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.embeddings import (
    adapt_embeddings,
    adapted_embeddings,
    embedding_layers,
    embedding_parameters,
    rows_by_name,
    sharing,
    train_rows,
)
from qlora_kernels.nn.peft_names import load_peft_names
from qlora_kernels.nn.placing import replace_modules
from qlora_kernels.nn.qlora_linear import ADAPTER_PARTS, QLoRALinear, is_conv1d
from qlora_kernels.nn.saved_modules import (
    check_own_parameters,
    modules_to_save,
    saved_parameters,
    train_modules,
)
from qlora_kernels.nn.shared_input import share_inputs
from qlora_kernels.nn.targets import check_patterns, matched_names
from qlora_kernels.nn.trained_biases import train_biases, trained_biases

_LOG = logging.getLogger("qlora_kernels")

Progress = Callable[[int, int, str], None]


def prepare_model(
    model: nn.Module,
    config: QLoRAConfig,
    progress: Progress | None = None,
    importance: Mapping[str, torch.Tensor] | None = None,
) -> nn.Module:
    """Quantize the linear layers of `model` in place, add adapters, freeze all the rest; returns
    it.

    Every `nn.Linear` (and Conv1D of GPT-2) but the output head becomes a QLoRALinear; those that
    `config.targets` chooses get adapters. What matched is logged at INFO level to "qlora_kernels"
    and told by `describe(model)`. progress(done, total, name) is called after each layer.
    importance: what `measure_importance` found, by layer name, for formats whose scales are
    searched; a layer that it does not name is searched without.

    Layers that are quantized already, without adapters, as a model loaded from its codes has them,
    keep their codes. `config` must say their format, block size and double quantization; whether
    scales were searched leaves no trace and is not compared.

    Raises InputError, before anything is changed, for targets that match nothing, a tied head that
    would be changed without `untie`, a weight that is not finite, layers in another format than the
    config's, and a model that has adapters already.
    """
    saved = modules_to_save(model, config.modules_to_save)
    layers = {n: m for n, m in _linear_layers(model).items() if n not in saved}
    embeddings = embedding_layers(model).keys() - saved.keys()
    head, every = _head_name(model, layers), [*layers, *sorted(embeddings)]
    chosen = matched_names(every, {head, *embeddings}, config)
    check_patterns([n for n in layers if n != head or config.quantize_head], every, config)
    adapted = [n for n in chosen if n in layers]
    embedded = [n for n in chosen if n in embeddings]
    replaced = [n for n in layers if n != head or config.quantize_head or head in adapted]
    _check_changed(model, [*(n for n in replaced if n == head), *embedded], embedded, config)
    rows = rows_by_name(model, config, {*saved, *replaced, *embedded})
    untied = check_own_parameters(model, saved, config.untie)
    weights = _of_searched(importance or {}, replaced, config)
    made = {}  # all of them before the first is put in place: a refusal leaves the model as it was
    for done, name in enumerate(replaced, start=1):
        dense = name == head and not config.quantize_head
        layer_config = replace(config, format="none") if dense else config
        made[name] = _layer(layers[name], layer_config, name, name in adapted, weights.get(name))
        if progress is not None:
            progress(done, len(replaced), name)
    model.requires_grad_(False)
    replace_modules(model, {layers[name]: layer for name, layer in made.items()})
    if head in made:
        made[head].weight.data = made[head].weight.data.clone()  # memory of its own
    train_modules(saved)
    adapt_embeddings(model, embedded, config)
    _train_beside(model, rows, config.bias)
    if untied or embedded or head in made:
        _tell_untied(model)
    if config.share_inputs:
        share_inputs(model)
    model.register_load_state_dict_pre_hook(load_peft_names)
    _tell_trainable(model)
    _LOG.info("prepare_model: adapters on %d of %d layers: %s", len(chosen), len(layers), chosen)
    return model


def _train_beside(model: nn.Module, rows: Mapping[str, Sequence[int]], bias: str) -> None:
    for name, tokens in rows.items():
        train_rows(model, name, tokens)
    train_biases(model, bias)


def quantized_layers(model: nn.Module) -> dict[str, QLoRALinear]:
    """Name -> layer of every QLoRALinear in the model, with or without adapter."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QLoRALinear)}


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of every adapter in the model, rows of tokens, trained biases and modules
    last: what an optimizer should get.
    """
    factors = {
        f"{name}.{part}": parameter
        for name, layer in quantized_layers(model).items()
        for part in ADAPTER_PARTS
        if (parameter := getattr(layer, part)) is not None
    }
    biases = {f"{name}.bias": bias for name, bias in trained_biases(model).items()}
    return factors | embedding_parameters(model) | biases | saved_parameters(model)


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Within the block the model is its quantized base, but with the biases and modules that are
    trained whole.
    """
    layers = [*quantized_layers(model).values(), *adapted_embeddings(model).values()]
    before = [layer.adapter_enabled for layer in layers]
    try:
        for layer in layers:
            layer.adapter_enabled = False
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.adapter_enabled = enabled


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Name -> linear layer, shared ones once. Subclasses are left alone: they mean more."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, QLoRALinear) and module.lora_a is not None:
            raise InputError(f"prepare_model: model should be unprepared, {name} has an adapter")
        if type(module) is nn.Linear or isinstance(module, QLoRALinear) or is_conv1d(module):
            layers[name] = cast(nn.Linear, module)  # Conv1D has the same attributes
    if not layers or "" in layers:
        was = "a single one" if layers else "none"
        raise InputError(
            f"prepare_model: model should hold linear layers, was {was} "
            "(QLoRALinear.from_linear prepares one layer)"
        )
    return layers


def _head_name(model: nn.Module, layers: dict[str, nn.Linear]) -> str | None:
    """The layer that makes the logits, as transformers tells it, or by its usual name."""
    get_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = get_head()
    by_identity = next((n for n, m in layers.items() if m is head), None)
    return by_identity or ("lm_head" if "lm_head" in layers else None)


def _of_searched(
    importance: Mapping[str, torch.Tensor], names: list[str], config: QLoRAConfig
) -> dict[str, torch.Tensor]:
    """The part for layers whose scales are searched: the others have no use for it."""
    searched = {n for n in names if (spec := config.spec_of(n)) is not None and spec.ratios}
    found = {n: values for n, values in importance.items() if n in searched}
    if importance and not found:
        raise InputError(
            "prepare_model: importance should be of layers whose scales are searched "
            f"(scale_search=True, or format nf4-tuned), was of {next(iter(importance))}"
        )
    return found


def _layer(
    linear: nn.Linear,
    config: QLoRAConfig,
    name: str,
    adapt: bool,
    importance: torch.Tensor | None,
) -> QLoRALinear:
    """`QLoRALinear.from_linear`; what it refuses is told with the layer's name."""
    if isinstance(linear, QLoRALinear):
        return _over_codes(linear, config, name, adapt)
    try:
        return QLoRALinear.from_linear(linear, config, name, adapt, importance)
    except InputError as error:
        raise InputError(f"prepare_model: {name}.weight: {error}") from None


def _over_codes(layer: QLoRALinear, config: QLoRAConfig, name: str, adapt: bool) -> QLoRALinear:
    """A layer over the same memory, if the config would have made it so."""
    check_stored("prepare_model", name, layer.base, config)
    made = QLoRALinear(layer.base, layer.bias).train(layer.training)
    if adapt:
        made.add_adapter(config, name)
    return made


def check_stored(who: str, name: str, base: Base, config: QLoRAConfig) -> None:
    """Refuse a base that the config would not have made; searched scales leave no trace."""
    wanted = config.spec_of(name)
    stored = base.spec if isinstance(base, QuantizedTensor) else None
    if stored != (wanted and replace(wanted, scale_search=False)):
        raise InputError(
            f"{who}: {name} should be asked for as it is stored, {_told(stored)}, "
            f"was asked for as {_told(wanted)}"
        )


def _told(spec: QuantSpec | None) -> str:
    if spec is None:
        return "format none"
    return f"format {spec.format}, block_size {spec.block_size}, double_quant {spec.double_quant}"


def _check_changed(
    model: nn.Module, names: list[str], embedded: list[str], config: QLoRAConfig
) -> None:
    """Refuse to change a head or embedding that shares its weight, unless it is to be untied; and
    DoRA of an embedding.
    """
    for name in names:
        others = sharing(model, name)
        if others and not config.untie:
            raise InputError(
                f"prepare_model: {name} should have its own weight to be changed, shares "
                f"{others[0]}.weight (untie=True gives it a copy)"
            )
    if config.dora and embedded:
        raise InputError(f"prepare_model: DoRA should be of linear layers, {embedded[0]} is none")


def _tell_trainable(model: nn.Module) -> None:
    """A Trainer refuses what our plug-in for from_pretrained quantized, until it has adapters."""
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if type(quantizer).__module__.startswith("qlora_kernels."):
        quantizer.is_qat_trainable = True


def _tell_untied(model: nn.Module) -> None:
    model_config: Any = getattr(model, "config", None)
    if hasattr(model_config, "tie_word_embeddings"):
        model_config.tie_word_embeddings = False
