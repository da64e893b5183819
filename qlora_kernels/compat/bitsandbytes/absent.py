"""Names that scripts import beside what they use, which refuse to be called."""

from typing import Any


def absent(name: str, instead: str) -> type:
    """A class by the name of one that is not provided: made or called, NotImplementedError."""

    def refuse(self: object, *arguments: Any, **named: Any) -> None:
        raise NotImplementedError(f"{name} is not provided here: {instead}")

    refusing: dict[str, Any] = {"__init__": refuse, "__doc__": f"Not provided: {instead}."}
    return type(name, (), refusing)
