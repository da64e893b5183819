"""One value of a setting, from a flag's text or from YAML, to the type of its field.

Fields are bool, int, float, str, Path, Literal, `X | None`, `tuple[X, ...]`, `dict[str, X]` and
`str | tuple[str, ...]`. Numbers may come as text: a flag always does, and YAML 1.1 reads 1e-3 as
text too; a list of numbers as one, with commas. Truth values never stand for numbers or text: YAML
1.1 reads `no` as false.
"""

import math
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from qlora.spelling import did_you_mean
from qlora_kernels.errors import InputError

NOUNS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    tuple: "a list",
    dict: "a mapping",
    NoneType: "none",
}


def read_value(name: str, value: object, hint: Any) -> Any:
    """Return `value` as the type `hint`; raises InputError, which starts with `name`."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _read_union(name, value, get_args(hint))
    if origin is Literal:
        return _read_choice(name, value, get_args(hint))
    if origin is tuple and get_args(hint)[0] in (int, float):
        value = _split(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(read_value(f"{name}[{i}]", v, get_args(hint)[0]) for i, v in enumerate(value))
    if origin is dict:
        pairs = _pairs(name, value) if isinstance(value, list) else value
        if isinstance(pairs, dict):
            inner = get_args(hint)[1]
            return {str(k): read_value(f"{name}[{k}]", v, inner) for k, v in pairs.items()}
    converted = _read_plain(value, hint)
    if converted is None:
        raise InputError(f"{name} should be {noun(hint)}, was {describe(value)}")
    return converted


def noun(hint: Any) -> str:
    """What a value of the type `hint` is called in messages."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(noun(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return NOUNS[get_origin(hint) or hint]


def describe(value: object) -> str:
    """The value and, where its look deceives, what it was read as."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a truth value: quote it if it is text)"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, (list, dict)):
        return f"{NOUNS[tuple if isinstance(value, list) else dict]}"
    return repr(value)


def _read_plain(value: object, hint: Any) -> Any:
    """The converted value; None where the types do not agree."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and (isinstance(value, str) or (number and not isinstance(value, float))):
            return int(value)  # type: ignore[call-overload]
        if hint is float and (isinstance(value, str) or number):
            converted = float(value)  # type: ignore[arg-type]
            return None if math.isnan(converted) else converted
    except ValueError:
        return None
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, (str, Path)) and str(value):
        return Path(value).expanduser()
    return None


def _read_union(name: str, value: object, members: tuple[Any, ...]) -> Any:
    if NoneType in members and (value is None or value == "none"):
        return None
    members = tuple(member for member in members if member is not NoneType)
    if len(members) == 1:
        return read_value(name, value, members[0])
    for member in members:
        try:
            return read_value(name, value, member)
        except InputError:
            continue
    nouns = " or ".join(map(noun, members))
    raise InputError(f"{name} should be {nouns}, was {describe(value)}")


def _read_choice(name: str, value: object, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice or (isinstance(value, str) and value == str(choice)):
            return choice
    listed = ", ".join(map(str, choices))
    hint = did_you_mean(value, map(str, choices))
    raise InputError(f"{name} should be one of {listed}, was {describe(value)}{hint}")


def _split(value: object) -> object:
    """`"1.5,-0.5"`, alone or as a word of a list, as its parts; anything else as it is."""
    if isinstance(value, str):
        return value.split(",")
    if isinstance(value, (list, tuple)):
        pieces = [word.split(",") if isinstance(word, str) else [word] for word in value]
        return [piece for word in pieces for piece in word]
    return value


def _pairs(name: str, texts: list[str]) -> dict[str, str]:
    """`["q_proj=8"]` of the command line as a mapping."""
    for text in texts:
        if "=" not in str(text):
            raise InputError(f"{name} should be NAME=VALUE, was {text!r}")
    return dict(text.split("=", 1) for text in texts)
