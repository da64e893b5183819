"""A look at the data before any model is loaded: how many examples, and what is wrong with them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora.data.encode import Example
from qlora.data.rows import Row, read_rows
from qlora.data.sampling import sample
from qlora.data.sources import encode_row, shortened
from qlora.data.split import held_out, num_held_out
from qlora.lint import Notice, Passages, Tokenized, lint, read_passages
from qlora.lint.tokens import as_ends
from qlora.recipe.notices import few_examples
from qlora.recipe.settings import RecipeSettings
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError

SAMPLE = 5_000  # rows that are tokenized: a share of them is within 1.4 %, 1 / sqrt(SAMPLE)
CHARACTERS_PER_TOKEN = 4  # of English, where there is no tokenizer to ask


@dataclass(frozen=True)
class Survey:
    """What the recipe goes by."""

    num_examples: int
    exact: bool  # whether that is counted; else estimated from lengths or from a sample
    documents: bool  # whether some are pieces of documents
    notices: tuple[Notice, ...]


def survey(settings: RecipeSettings, told: TrainSettings) -> Survey:
    """Read and lint the data; with a model, through its tokenizer. `told` says how it is split."""
    assert settings.data is not None
    rows = list(read_rows(settings.data))
    if not rows:
        raise InputError(f"{settings.data}: should hold at least one example, holds none")
    if settings.model is None:
        count, exact = _estimate(rows, settings.sequence_length)
        tokenized = None
    else:
        tokenized = _tokenize(settings, rows)
        count, exact = _scaled(tokenized, rows)
    notices = [*few_examples(count), *lint(_passages(settings, told), tokenized)]
    documents = any("text" in row for _, row in rows)
    return Survey(count, exact, documents, tuple(notices))


def _passages(settings: RecipeSettings, told: TrainSettings) -> Passages:
    """Training and validation, split as `qlora train` will, where each row is one example."""
    assert settings.data is not None
    passages = read_passages(settings.data)
    if settings.validation:
        return Passages.apart(passages, read_passages(settings.validation))
    if settings.data.suffix == ".txt" or len(passages) < 2:
        return Passages.apart(passages)
    held = num_held_out(len(passages), told.validation_split)
    chosen = held_out(len(passages), held, told.seed)
    return Passages.parted(passages, {passages[number].source for number in chosen})


def _estimate(rows: list[tuple[str, Row]], length: int) -> tuple[int, bool]:
    """Examples and whether that is sure: documents are cut into pieces of so many tokens."""
    documents = [row["text"] for _, row in rows if "text" in row]
    pieces = sum(-(-len(text) // (CHARACTERS_PER_TOKEN * length)) or 1 for text in documents)
    return len(rows) - len(documents) + pieces, not documents


def _scaled(tokenized: Tokenized, rows: list[tuple[str, Row]]) -> tuple[int, bool]:
    """The same from a sample: only documents are more than one example each."""
    counted = len(tokenized.examples) + len(tokenized.unlearnable)
    if tokenized.out_of is None:
        return counted, True
    if not any("text" in row for _, row in rows):
        return len(rows), True
    return round(counted * len(rows) / SAMPLE), False


def _tokenize(settings: RecipeSettings, rows: list[tuple[str, Row]]) -> Tokenized:
    from qlora.models import load_tokenizer  # with transformers, which a plain install lacks

    assert settings.model is not None
    tokenizer = load_tokenizer(settings.model)
    some = sample(rows, SAMPLE)
    examples = list(_examples(tokenizer, some, settings.sequence_length))
    return Tokenized(
        tokenizer,
        [example for example in examples if example.num_supervised],
        settings.sequence_length,
        [example for example in examples if not example.num_supervised],
        _generation_ends(settings.model),
        len(rows) if len(some) < len(rows) else None,
    )


def _examples(tokenizer: Any, rows: list[tuple[str, Row]], length: int) -> Iterator[Example]:
    for source, row in rows:
        for example in encode_row(tokenizer, row, length, source):
            yield shortened(example, length)


def _generation_ends(model: Path) -> frozenset[int]:
    """Tokens at which the model stops beside the tokenizer's own, as its folder says."""
    try:
        told = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))
        return as_ends(told.get("eos_token_id"))
    except (OSError, ValueError, AttributeError, TypeError):
        return frozenset()
