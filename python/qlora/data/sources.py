"""A data file as examples: rows tokenized, fitted to a length, checked for what to learn."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qlora.data.chat import encode_chat
from qlora.data.encode import IGNORE, Example, encode_completion, encode_text
from qlora.data.rows import Row, read_rows
from qlora_kernels.errors import InputError

logger = logging.getLogger(__name__)


def read_examples(
    path: str | Path,
    tokenizer: Any,
    max_length: int,
    *,
    vocab_size: int | None = None,
    skip_unsupervised: bool = False,
) -> list[Example]:
    """Read a .txt or .jsonl file into examples of at most `max_length` tokens, in file order.

    Documents are cut into pieces; completions and conversations lose their end when too long, which
    is counted and logged. An example left without a supervised token is an error, or is skipped and
    counted. `vocab_size` is the model's: token ids that it lacks are refused.
    Raises InputError naming file and line: for what `read_rows` refuses, nothing to learn, a
    tokenizer that is not the model's, and a file without any example.
    """
    path = Path(path)
    if max_length < 2:
        raise InputError(f"data: max_length should be at least 2 tokens, was {max_length}")
    examples: list[Example] = []
    cut = skipped = 0
    for source, row in _with_progress(list(read_rows(path)), f"tokenizing {path.name}"):
        for whole in encode_row(tokenizer, row, max_length, source):
            example = shortened(whole, max_length)
            cut += example.cut > 0
            _check_vocabulary(example, vocab_size)
            if example.num_supervised:
                examples.append(example)
            elif skip_unsupervised:
                skipped += 1
            else:
                raise InputError(_nothing_to_learn(whole, max_length))
    if cut:
        logger.warning("%s: cut at %d tokens: %d examples", path, max_length, cut)
    if skipped:
        logger.warning("%s: skipped, with nothing to learn: %d examples", path, skipped)
    if not examples:
        raise InputError(f"{path}: should hold at least one example, holds none")
    return examples


def encode_row(tokenizer: Any, row: Row, length: int, source: str) -> list[Example]:
    """A row's examples, whole; documents in pieces of at most `length` tokens."""
    if "text" in row:
        return encode_text(tokenizer, row["text"], length, source)
    if "messages" in row:
        return [encode_chat(tokenizer, row["messages"], source)]
    return [encode_completion(tokenizer, row["prompt"], row["completion"], source)]


def shortened(example: Example, length: int) -> Example:
    """Its first `length` tokens."""
    if len(example) <= length:
        return example
    ids, labels = example.input_ids[:length], example.labels[:length]
    return replace(example, input_ids=ids, labels=labels, cut=len(example) - length)


def _check_vocabulary(example: Example, vocab_size: int | None) -> None:
    largest = max(example.input_ids, default=0)
    if vocab_size is not None and largest >= vocab_size:
        raise InputError(
            f"{example.source}: token ids should be below the model's vocabulary of {vocab_size},"
            f" was {largest}; the tokenizer belongs to another model"
        )


def _nothing_to_learn(example: Example, length: int) -> str:
    if not example.num_supervised:
        return f"{example.source}: should have at least one token to learn, has none"
    first = 1 + next(i for i, label in enumerate(example.labels) if label != IGNORE)
    return (
        f"{example.source}: should have a token to learn within {length} tokens,"
        f" the first is number {first}"
    )


def _with_progress(rows: list[tuple[str, Row]], description: str) -> Iterable[tuple[str, Row]]:
    """The rows, with a progress bar where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(rows, description, console=console, transient=True, disable=hidden)
