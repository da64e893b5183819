"""Embeddings and heads in the surgery: which are adapted, which tokens get rows, what is tied."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from qlora_kernels.checks import InputError
from qlora_kernels.nn.config import QLoRAConfig
from qlora_kernels.nn.placing import replace_modules
from qlora_kernels.nn.qlora_embedding import QLoRAEmbedding
from qlora_kernels.nn.token_rows import TokenHead


def embedding_layers(model: nn.Module) -> dict[str, nn.Embedding]:
    """Name -> embedding that can be adapted, shared ones once; those that compute more cannot."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Embedding) and _is_plain(m)}


def adapted_embeddings(model: nn.Module) -> dict[str, QLoRAEmbedding | TokenHead]:
    """Name -> embedding or head that has, or had, an adapter or rows of tokens."""
    kinds = (QLoRAEmbedding, TokenHead)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def embedding_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> trained parameter of every embedding and head; rows that both have are told once."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, module in adapted_embeddings(model).items():
        for part in ("lora_a", "lora_b"):
            if (factor := getattr(module, part, None)) is not None:
                found[id(factor)] = (f"{name}.{part}", factor)
        if module.token_rows is not None:
            rows = module.token_rows.rows
            found.setdefault(id(rows), (f"{name}.token_rows.rows", rows))
    return dict(found.values())


def rows_by_name(
    model: nn.Module, config: QLoRAConfig, changed: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Module name -> ascending tokens that `config.trainable_tokens` gives rows.

    changed: modules that are quantized, adapted or trained whole, which have weights of their own.
    A head that is tied to its embedding follows it and is left out. Raises InputError for names
    that match no embedding or head, modules that are changed as well, and tokens that do not fit.
    """
    told = config.trainable_tokens
    if not told:
        return {}
    ends = told if isinstance(told, Mapping) else {_input_embedding(model): told}
    found = {name: tokens for end, tokens in ends.items() for name in _ending_in(end, model)}
    for name, tokens in found.items():
        if name in changed:
            raise InputError(
                f"prepare_model: {name} should be trained by rows of tokens alone, is quantized, "
                "adapted or trained whole as well"
            )
        check_tokens("prepare_model", name, tokens, model.get_submodule(name))
    followers = set()
    for name, tokens in found.items():
        for other in {*sharing(model, name)} - {*changed}:
            if sorted(found.get(other, tokens)) != sorted(tokens):
                raise InputError(
                    f"prepare_model: {name} and {other}, which share their weight, should have "
                    "rows for the same tokens, have not"
                )
            if isinstance(model.get_submodule(name), nn.Embedding):
                followers.add(other)
            elif other not in found:
                raise InputError(
                    f"prepare_model: trainable_tokens should name {other}, whose weight {name} "
                    f"shares, names {name} alone"
                )
    return {name: tuple(sorted(t)) for name, t in found.items() if name not in followers}


def adapt_embeddings(model: nn.Module, names: Sequence[str], config: QLoRAConfig) -> None:
    """Give the embeddings of these names fresh adapters and weights of their own."""
    for name in names:
        embedding = as_qlora_embedding(model, name)
        if sharing(model, name):
            own = embedding.weight.detach().clone()
            embedding.weight = nn.Parameter(own, requires_grad=False)
        embedding.add_adapter(config, name)


def train_rows(
    model: nn.Module, name: str, tokens: Sequence[int], values: torch.Tensor | None = None
) -> None:
    """Train rows for these tokens of an embedding, and of the head tied to it, or of a head."""
    if not isinstance(model.get_submodule(name), nn.Embedding):
        _as_token_head(model, name).set_rows(tokens, values)
        return
    embedding = as_qlora_embedding(model, name)
    embedding.set_rows(tokens, values)
    for other in sharing(model, name):
        _as_token_head(model, other).token_rows = embedding.token_rows


def as_qlora_embedding(model: nn.Module, name: str) -> QLoRAEmbedding:
    """The embedding of that name, made a QLoRAEmbedding in place if it was none."""
    embedding = model.get_submodule(name)
    assert isinstance(embedding, nn.Embedding)
    if isinstance(embedding, QLoRAEmbedding):
        return embedding
    made = QLoRAEmbedding(embedding)
    replace_modules(model, {embedding: made})
    return made


def sharing(model: nn.Module, name: str) -> list[str]:
    """The other modules that hold the weight of this one."""
    weight = model.get_submodule(name).weight
    holders = {n: m for n, m in model.named_modules() if m._parameters.get("weight") is weight}
    return [other for other in holders if other != name]


def check_tokens(who: str, name: str, tokens: Sequence[int], module: nn.Module) -> None:
    """Refuse a module that can have no rows of its own, and tokens that are none or stand twice."""
    if not (_is_plain(module) or type(module) in (nn.Linear, TokenHead)):
        was = type(module).__name__
        raise InputError(f"{who}: {name} should be an embedding or a dense head, was {was}")
    vocabulary = len(module.weight)  # type: ignore[arg-type]
    if odd := [t for t in tokens if not 0 <= t < vocabulary]:
        raise InputError(f"{who}: tokens of {name} should be below {vocabulary}, has {odd[0]}")
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{who}: tokens of {name} should be different ones, has one twice")


def _is_plain(module: nn.Module) -> bool:
    """Whether it is a plain look-up, perhaps scaled (Gemma, Bart): what QLoRAEmbedding does."""
    named = type(module).__name__.endswith("ScaledWordEmbedding")
    return type(module) in (nn.Embedding, QLoRAEmbedding) or named


def _as_token_head(model: nn.Module, name: str) -> TokenHead:
    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    if isinstance(head, TokenHead):
        return head
    made = TokenHead(head)
    replace_modules(model, {head: made})
    return made


def _input_embedding(model: nn.Module) -> str:
    """The embedding of the tokens, as transformers tells it, or the only one."""
    layers = embedding_layers(model)
    get_embedding: Any = getattr(model, "get_input_embeddings", lambda: None)
    told = get_embedding()
    by_identity = next((name for name, module in layers.items() if module is told), None)
    if by_identity is None and len(layers) != 1:
        raise InputError(
            "prepare_model: trainable_tokens should name an embedding ({name: tokens}), since the "
            f"model has {len(layers)}"
        )
    return by_identity or next(iter(layers))


def _ending_in(end: str, model: nn.Module) -> list[str]:
    """Modules with a weight whose names are `end` or end in `.end`."""
    names = [n for n, m in model.named_modules() if "weight" in m._parameters and n]
    found = [n for n in names if f".{n}".endswith(f".{end}")]
    if not found:
        suffixes = {".".join(n.split(".")[i:]) for n in names for i in range(n.count(".") + 1)}
        nearest = ", ".join(difflib.get_close_matches(end, sorted(suffixes), n=3, cutoff=0.3))
        raise InputError(
            f"prepare_model: trainable_tokens should match an embedding, {end!r} matches none; "
            f"nearest: {nearest}"
        )
    return found
