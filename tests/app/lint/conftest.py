"""Data files that tests make."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(rows, "train.jsonl")`: a data file of rows, or of a text as it is."""

    def writer(content: str | Sequence[dict[str, Any]], name: str = "train.jsonl") -> Path:
        if not isinstance(content, str):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return writer
