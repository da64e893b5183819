"""Data files: .txt is one document; .jsonl has one example per line, in one of three forms.

{"text": "..."}                            every token is learned
{"prompt": "...", "completion": "..."}     the completion is learned
{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}   its replies
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from qlora.data.chat import encode_chat
from qlora.data.encode import Example, encode_completion, encode_text
from qlora.spelling import refuse_unknown
from qlora_kernels.errors import InputError

FORMS = {"text": ("text",), "prompt": ("prompt", "completion"), "messages": ("messages",)}
KEYS = [key for keys in FORMS.values() for key in keys]

logger = logging.getLogger(__name__)
Row = TypeVar("Row")


def read_examples(
    path: str | Path,
    tokenizer: Any,
    max_length: int,
    *,
    vocab_size: int | None = None,
    skip_unsupervised: bool = False,
) -> list[Example]:
    """Read a .txt or .jsonl file into examples of at most `max_length` tokens, in file order.

    Documents are cut into pieces; prompts and conversations lose their end when too long, which is
    counted and logged. An example left without a supervised token is an error, or is skipped and
    counted. `vocab_size` is the model's: token ids that it lacks are refused.
    Raises InputError naming file and line: unreadable file, bad UTF-8 or JSON, unknown or missing
    keys, wrong types, nothing to learn, a tokenizer that is not the model's, no examples at all.
    """
    path = Path(path)
    if max_length < 2:
        raise InputError(f"data: max_length should be at least 2 tokens, was {max_length}")
    examples: list[Example] = []
    cut = skipped = 0
    for source, row in _with_progress(list(_rows(path)), f"tokenizing {path.name}"):
        for whole in _encode(tokenizer, row, max_length, source):
            example = _shortened(whole, max_length)
            cut += example is not whole
            _check_vocabulary(example, vocab_size)
            if example.num_supervised:
                examples.append(example)
            elif skip_unsupervised:
                skipped += 1
            else:
                raise InputError(_nothing_to_learn(whole, max_length))
    if cut:
        logger.warning("%s: %d examples were cut at %d tokens", path, cut, max_length)
    if skipped:
        logger.warning("%s: %d examples skipped, nothing in them to learn", path, skipped)
    if not examples:
        raise InputError(f"{path}: should hold at least one example, holds none")
    return examples


def _with_progress(rows: list[Row], description: str) -> Iterable[Row]:
    """The rows, with a progress bar where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(rows, description, console=console, transient=True, disable=hidden)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place in the file, checked for its form but not encoded yet."""
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(f"{path}: a data file should be .txt or .jsonl, was '{path.suffix}'")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the data: {error.strerror}") from error
    if path.suffix == ".txt":
        if text := _decode(content, str(path)):
            yield str(path), {"text": text}
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        source = f"{path} line {number}"
        if line.strip():
            yield source, _checked(_parse(_decode(line, source), source), source)


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: should be UTF-8 text, byte {error.start} is not") from error


def _parse(line: str, source: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.colno}"
        raise InputError(f"{source}: should be one JSON object, was not JSON: {problem}") from error
    if not isinstance(row, dict):
        raise InputError(f"{source}: should be one JSON object, was {type(row).__name__}")
    return row


def _checked(row: dict[str, Any], source: str) -> dict[str, Any]:
    """The row, if it has exactly the keys of one form with the right types."""
    refuse_unknown(source, row, KEYS)
    forms = [form for form in FORMS.values() if any(key in row for key in form)]
    if len(forms) != 1 or set(forms[0]) != set(row):
        listed = "`text`, or `prompt` and `completion`, or `messages`"
        raise InputError(f"{source}: should have {listed}, had {', '.join(row) or 'no key'}")
    for key, value in row.items():
        if key != "messages":
            _check_text(value, key, source)
    for number, message in enumerate(_messages(row, source), start=1):
        name = f"message {number}"
        if not isinstance(message, dict):
            raise InputError(f"{source}: {name} should be an object, was {type(message).__name__}")
        refuse_unknown(f"{source}: {name}", message, ("role", "content"))
        for key in ("role", "content"):
            _check_text(message.get(key), f"{key} of {name}", source)
    return row


def _messages(row: dict[str, Any], source: str) -> list[Any]:
    messages = row.get("messages", [])
    if not isinstance(messages, list):
        raise InputError(f"{source}: messages should be a list, was {type(messages).__name__}")
    return messages


def _check_text(value: object, key: str, source: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{source}: {key} should be text, was {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = "had half a surrogate pair"
        raise InputError(f"{source}: {key} should be Unicode text, {half}") from error


def _encode(tokenizer: Any, row: dict[str, Any], length: int, source: str) -> list[Example]:
    if "text" in row:
        return encode_text(tokenizer, row["text"], length, source)
    if "messages" in row:
        return [encode_chat(tokenizer, row["messages"], source)]
    return [encode_completion(tokenizer, row["prompt"], row["completion"], source)]


def _shortened(example: Example, length: int) -> Example:
    if len(example) <= length:
        return example
    return replace(example, input_ids=example.input_ids[:length], labels=example.labels[:length])


def _check_vocabulary(example: Example, vocab_size: int | None) -> None:
    if vocab_size is not None and max(example.input_ids, default=0) >= vocab_size:
        largest = max(example.input_ids)
        raise InputError(
            f"{example.source}: token ids should be below the model's vocabulary of {vocab_size},"
            f" was {largest}; the tokenizer belongs to another model"
        )


def _nothing_to_learn(example: Example, length: int) -> str:
    if example.num_supervised:
        first = next(i for i, label in enumerate(example.labels) if label >= 0)
        return (
            f"{example.source}: should have a token to learn within {length} tokens, the first is"
            f" number {first + 1}"
        )
    return f"{example.source}: should have at least one token to learn, has none"
