"""Lints of training data: what goes wrong quietly, told before the first step."""

from qlora.lint.collect import lint
from qlora.lint.notice import Notice, describe
from qlora.lint.passages import Passages, read_passages
from qlora.lint.tokens import Tokenized

__all__ = ["Notice", "Passages", "Tokenized", "describe", "lint", "read_passages"]
