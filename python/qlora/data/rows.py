"""A data file as checked rows: .txt is one document, .jsonl has one row per line, in three forms.

{"text": "..."}
{"prompt": "...", "completion": "..."}
{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qlora.spelling import refuse_unknown
from qlora_kernels.errors import InputError

FORMS = (("text",), ("prompt", "completion"), ("messages",))
KEYS = [key for form in FORMS for key in form]

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row with its place, as "train.jsonl line 7", in file order; blank lines do not count.

    Raises InputError for a file of another kind or unreadable, and for a row that is not UTF-8, not
    a JSON object, or not exactly one of the forms with texts in it.
    """
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


def _parse(line: str, source: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.colno}"
        raise InputError(f"{source}: should be one JSON object, was not JSON: {problem}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InputError(f"{source}: should be one JSON object, has {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{source}: should be one JSON object, was {type(row).__name__}")
    return row


def _checked(row: Row, source: str) -> Row:
    refuse_unknown(source, row, KEYS)
    if not any(set(row) == set(form) for form in FORMS):
        listed = "`text`, or `prompt` and `completion`, or `messages`"
        raise InputError(f"{source}: should have {listed}, had {', '.join(row) or 'no key'}")
    if "messages" in row:
        _check_messages(row["messages"], source)
    else:
        for key, value in row.items():
            _check_text(value, key, source)
    return row


def _check_messages(messages: object, source: str) -> None:
    if not isinstance(messages, list):
        raise InputError(f"{source}: messages should be a list, was {type(messages).__name__}")
    if not messages:
        raise InputError(f"{source}: messages should hold at least one message, holds none")
    for number, message in enumerate(messages, start=1):
        name = f"message {number}"
        if not isinstance(message, dict):
            raise InputError(f"{source}: {name} should be an object, was {type(message).__name__}")
        refuse_unknown(f"{source}: {name}", message, ("role", "content"))
        for key in ("role", "content"):
            _check_text(message.get(key), f"{key} of {name}", source)


def _check_text(value: object, key: str, source: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{source}: {key} should be text, was {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = "had half a surrogate pair"
        raise InputError(f"{source}: {key} should be Unicode text, {half}") from error
