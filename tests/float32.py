"""The same arithmetic on every machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qlora import models


@contextmanager
def in_float32() -> Iterator[None]:
    """The processor seems to lack bf16: models are loaded in float32, unless a test says other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CPUINFO", Path("no-cpuinfo"))
        yield
