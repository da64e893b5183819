"""A YAML mapping of settings, read and written; PyYAML is imported when one is used."""

from pathlib import Path
from typing import Any

from qlora_kernels.errors import InputError


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the file; an empty file is an empty one.

    Raises InputError for an unreadable file, bad YAML, a key given twice (YAML keeps the last one
    silently) and a document that is no mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice in one mapping."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise InputError(f"{path}: line {line} gives {key.value!r} a second time")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path}: cannot read the settings: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise InputError(f"{path}:{where} {problem}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else "a single value"
        raise InputError(f"{path}: should be a mapping of settings (`key: value`), was {kind}")
    return document


def write_mapping(values: dict[str, Any]) -> str:
    """The mapping as YAML, in its own order; `read_mapping` gives the same values back."""
    import yaml

    return str(yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Paths as text, tuples as lists: what YAML has."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
