"""A model's shape from its name, its folder or its config.json, read as plain JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlora.plan.architecture import FAMILIES, Architecture
from qlora.plan.models import MODELS
from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

# GPT-2's words for what the others call hidden_size and so on.
GPT2_WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
FAMILY_WORDS = {"gemma3": "gemma3_text"}  # the text part of a model that sees images too
# Of the families, those whose config.json may leave tie_word_embeddings out and mean true.
TIED = {"gpt2", "gemma", "gemma3_text"}


def read_architecture(model: str) -> Architecture:
    """A built-in name, a folder with config.json, or the file itself.

    Raises InputError for anything else, for a `model_type` that is not known, and for sizes that
    are missing or no whole numbers.
    """
    if model in MODELS:
        return MODELS[model]
    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        hint = did_you_mean(model, MODELS) or f" (names: {', '.join(MODELS)})"
        raise InputError(
            f"plan: MODEL should be a name, or a folder or file of config.json, was {model!r}{hint}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"plan: {path} should be JSON, was not: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"plan: {path} should hold an object, held {type(config).__name__}")
    return architecture_of(config, path)


def architecture_of(config: Mapping[str, Any], path: Path) -> Architecture:
    """From what config.json says; `path` is for messages and the name."""
    inner = config.get("text_config")
    if isinstance(inner, dict):
        config = {"tie_word_embeddings": config.get("tie_word_embeddings"), **inner}
    family = str(config.get("model_type"))
    family = FAMILY_WORDS.get(family, family)
    if family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES) or f" (known: {', '.join(FAMILIES)})"
        raise InputError(f"plan: {path}: model_type should be a known one, was {family!r}{hint}")
    size = _Sizes(config, family, path)
    hidden, heads = size("hidden_size"), size("num_attention_heads")
    tied = config.get("tie_word_embeddings")
    return Architecture(
        name=path.parent.name or str(path),
        family=family,
        vocabulary=size("vocab_size"),
        hidden=hidden,
        blocks=size("num_hidden_layers"),
        heads=heads,
        key_value_heads=size("num_key_value_heads", heads),
        head_size=size("head_dim", hidden // heads),
        intermediate=size("intermediate_size", 4 * hidden if family == "gpt2" else None),
        tied=family in TIED if tied is None else bool(tied),
        longest=size("max_position_embeddings", 0) or None,
    )


class _Sizes:
    """Whole numbers of a config, by the word that most families have for them."""

    def __init__(self, config: Mapping[str, Any], family: str, path: Path) -> None:
        self.config, self.family, self.path = config, family, path

    def __call__(self, word: str, default: int | None = None) -> int:
        """A size; `default` where the file is silent or says null."""
        key = GPT2_WORDS.get(word, word) if self.family == "gpt2" else word
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:
            raise InputError(f"plan: {self.path}: {key} should be a size from 1, was {value!r}")
        return value
