"""Settings: one frozen dataclass is the flags, the YAML file, the checks and the help text.

    @dataclass(frozen=True)
    class TrainSettings:
        model: Path = field(metadata={"help": "folder or .gguf file"})
        learning_rate: float = setting(2e-4, "peak of the schedule")

gives `--model`, `--learning-rate`, and `model:`, `learning_rate:` in `--config run.yaml`. A flag
wins over the file, the file over the default. Checks between fields belong in `__post_init__`;
`qlora.values` lists the types that a field can have.
"""

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from qlora.spelling import refuse_unknown
from qlora.values import read_value
from qlora.yaml_file import read_mapping, write_mapping
from qlora_kernels.errors import InputError


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def setting(default: Any, text: str, short: str = "", positional: bool = False) -> Any:
    """A field with its default and its help text; `short` is a second flag (-o).

    A positional field is given without a flag; its default makes it optional for the file's sake.
    """
    metadata = {"help": text, "short": short, "positional": positional}
    return field(default=default, metadata=metadata)


Settings = TypeVar("Settings", bound=Dataclass)

METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def add_arguments(parser: argparse.ArgumentParser, settings: type[Dataclass]) -> None:
    """Add `--config` and one option per field; an option that is not given leaves no attribute.

    argparse only collects texts: `from_sources` reads and checks them, as it does the YAML values.
    """
    parser.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="file of these settings (`key: value`); flags override it",
    )
    hints = get_type_hints(settings)
    for item in fields(settings):
        hint = hints[item.name]
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS}
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _metavar(hint)
            if _takes_many(hint):
                options |= {"nargs": "*", "action": "extend"}
        if item.metadata.get("positional"):
            del options["dest"]
            if "nargs" not in options:
                options |= {"nargs": "?", "metavar": item.name.upper()}
            parser.add_argument(item.name, help=_help(item), **options)
            continue
        short = item.metadata.get("short")
        names = [short, flag(item.name)] if short else [flag(item.name)]
        parser.add_argument(*names, help=_help(item), **options)


def from_arguments(
    settings: type[Settings],
    arguments: argparse.Namespace,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """What `add_arguments` parsed, resolved: flags over the file of `--config` over defaults.

    defaults: values of fields that come before the dataclass's own.
    """
    names = {item.name for item in fields(settings)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return from_sources(settings, arguments.config, given, defaults)


def from_sources(
    settings: type[Settings],
    yaml_path: str | Path | None,
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Build `settings` from a YAML file (or None), then `overrides` (field name -> value or text).

    `defaults` are values, not texts, of fields that neither of them names.

    Raises InputError naming the key or flag, what it should be and what it was: for unknown keys
    (with the nearest known one), values of a wrong type and settings that must be given.
    """
    hints = get_type_hints(settings)
    names = [item.name for item in fields(settings)]
    values: dict[str, Any] = dict(defaults or {})
    if yaml_path is not None:
        written = read_mapping(Path(yaml_path))
        named = {key(name): name for name in names}
        refuse_unknown(str(yaml_path), written, named)
        for word, value in written.items():
            name = named[word]
            values[name] = read_value(f"{yaml_path}: {word}", value, hints[name])
    refuse_unknown("settings", overrides, names)
    for name, value in overrides.items():
        if isinstance(value, list) and len(value) == 1 and _is_text_or_list(hints[name]):
            value = value[0]
        values[name] = read_value(flag(name), value, hints[name])
    for item in fields(settings):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise InputError(
                f"settings: {flag(item.name)} should be given (or `{key(item.name)}:` in the file"
                " of --config), was missing"
            )
    return settings(**values)


def to_yaml(settings: Dataclass) -> str:
    """All settings as YAML, defaults included; `from_sources` reads the same settings back."""
    names = settings.__dataclass_fields__
    return write_mapping({key(name): getattr(settings, name) for name in names})


def key(name: str) -> str:
    """The word for a field in the file; `lambda_` is `lambda`, which Python reserves."""
    return name.rstrip("_")


def flag(name: str) -> str:
    """The command-line option of a field."""
    return "--" + key(name).replace("_", "-")


def _takes_many(hint: Any) -> bool:
    origins = [get_origin(member) for member in (hint, *get_args(hint))]
    return get_origin(hint) is not Literal and (tuple in origins or dict in origins)


def _is_text_or_list(hint: Any) -> bool:
    """Whether one word on the command line means itself: `str | tuple[str, ...]`."""
    return str in get_args(hint) and get_origin(hint) not in (tuple, dict)


def _metavar(hint: Any) -> str:
    members = [member for member in get_args(hint) if member is not NoneType]
    if get_origin(hint) is Literal:
        return "|".join(map(str, members))
    if get_origin(hint) is dict:
        return "NAME=VALUE"
    if get_origin(hint) is tuple or (members and hint is not str):
        return _metavar(members[0])
    return METAVARS[hint]


def _help(item: Field[Any]) -> str:
    text = str(item.metadata["help"]).replace("%", "%%")
    if item.default is MISSING:
        return text
    default = str(item.default).lower() if isinstance(item.default, bool) else item.default
    return text if default in (None, ()) else f"{text} (default: {default})".replace("%%", "%")
