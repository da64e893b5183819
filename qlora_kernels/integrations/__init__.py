"""Hooks into other people's trainers: each submodule is imported when it is first named."""

from importlib import import_module
from types import ModuleType

__all__ = ["peft", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__} has no attribute {name}")
