"""What an adapter folder says about embeddings and heads: factors, rows of tokens, whole weights.

peft writes the frozen weight of a targeted embedding or head beside its factors, since it may have
been resized; it is read, and never written here.
"""

from collections.abc import Mapping

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.formats.adapter_folder import AdapterFolder, LayerFactors, TokenRows
from qlora_kernels.nn.embeddings import (
    adapted_embeddings,
    as_qlora_embedding,
    check_tokens,
    embedding_layers,
    sharing,
    train_rows,
)
from qlora_kernels.nn.qlora_embedding import QLoRAEmbedding
from qlora_kernels.nn.qlora_linear import QLoRALinear
from qlora_kernels.nn.saved_modules import saved_modules


def adapted_factors(model: nn.Module) -> dict[str, LayerFactors]:
    """Name -> factors of every embedding with an adapter."""
    return {
        name: LayerFactors(module.lora_a.detach(), module.lora_b.detach(), module.scaling)
        for name, module in adapted_embeddings(model).items()
        if isinstance(module, QLoRAEmbedding) and module.lora_a is not None
        if module.lora_b is not None
    }


def rows_of_tokens(model: nn.Module) -> dict[str, TokenRows]:
    """Name -> rows of every embedding and head; those of a tied head are its embedding's."""
    found: dict[int, tuple[str, TokenRows]] = {}
    for name, module in adapted_embeddings(model).items():
        if (held := module.token_rows) is not None:
            found.setdefault(id(held), (name, TokenRows(held.tokens, held.rows.detach())))
    return dict(found.values())


def frozen_weights(read: AdapterFolder) -> dict[str, torch.Tensor]:
    """Layer -> weight that the folder gives to what stands under its factors."""
    adapted = {**read.layers, **read.embeddings}
    named = {name.removesuffix(".weight"): t for name, t in read.saved_modules.items()}
    return {name: tensor for name, tensor in named.items() if name in adapted}


def check_embeddings(who: str, model: nn.Module, read: AdapterFolder) -> None:
    """Refuse what the model has no place for."""
    embeddings, whole = embedding_layers(model), saved_modules(model)
    for name in {**read.embeddings, **read.token_rows}:
        if name in whole:
            raise InputError(f"{who}: {name} should hold no adapter, since it is trained whole")
        if name in read.embeddings and name in read.token_rows:
            raise InputError(f"{who}: {name} should have factors or rows of tokens, has both")
    for name, factors in read.embeddings.items():
        if name not in embeddings:
            raise InputError(f"{who}: {name} should be an embedding of the model, is not")
        if factors.magnitude is not None:
            raise InputError(f"{who}: {name} should be LoRA, DoRA of an embedding it is")
        embedding = embeddings[name]
        _check_shape(who, f"A of {name}", factors.a, (factors.rank, embedding.num_embeddings))
        _check_shape(who, f"B of {name}", factors.b, (embedding.embedding_dim, factors.rank))
        if others := sharing(model, name):
            raise InputError(
                f"{who}: {name} should have its own weight to be adapted, shares "
                f"{others[0]}.weight (QLoRAConfig: name it in targets, untie=True)"
            )
    modules = dict(model.named_modules())
    for name, rows in read.token_rows.items():
        if name not in modules:
            raise InputError(f"{who}: {name} should be an embedding of the model, is not")
        check_tokens(who, name, rows.indices, modules[name])
        width = modules[name].get_parameter("weight").shape[1]
        _check_shape(who, f"rows of {name}", rows.rows, (len(rows.indices), width))
    for name, tensor in frozen_weights(read).items():
        module = modules[name]
        if isinstance(module, QLoRALinear) and module.format != "none":
            raise InputError(f"{who}: {name} should be dense to take its weight, is quantized")
        _check_shape(who, f"{name}.weight", tensor, module.get_parameter("weight").shape)


def set_embeddings(model: nn.Module, read: AdapterFolder) -> None:
    """Give the model these factors, rows and weights, in place of those it has."""
    for name, module in adapted_embeddings(model).items():
        if isinstance(module, QLoRAEmbedding) and name not in read.embeddings:
            module.lora_a = module.lora_b = None
        if name not in read.token_rows:
            module.token_rows = None  # a tied head gets its embedding's below
    for name, factors in read.embeddings.items():
        alpha = read.config.alpha_of(name)
        as_qlora_embedding(model, name).set_adapter(factors.a, factors.b, alpha, read.config.rslora)
    for name, rows in read.token_rows.items():
        ascending = sorted(range(len(rows.indices)), key=rows.indices.__getitem__)
        tokens = [rows.indices[place] for place in ascending]
        train_rows(model, name, tokens, rows.rows[ascending])
    for name, tensor in frozen_weights(read).items():
        model.get_submodule(name).get_parameter("weight").data.copy_(tensor)


def beside_factors(read: AdapterFolder) -> Mapping[str, torch.Tensor]:
    """The saved parameters of modules that are trained whole."""
    frozen = frozen_weights(read)
    return {n: t for n, t in read.saved_modules.items() if n.removesuffix(".weight") not in frozen}


def _check_shape(who: str, what: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise InputError(f"{who}: {what} should be {list(shape)}, was {list(tensor.shape)}")
