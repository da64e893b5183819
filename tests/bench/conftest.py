"""A small invented WordNet, packed as the real one is."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from float32 import in_float32

NUM_NOUNS = 400  # more than the tests of the study hold out
KINDS = ("05 animal", "06 artifact", "13 food")


def _noun(number: int) -> str:
    file, kind = KINDS[number % len(KINDS)].split()
    use = f'"they saw {kind} {number}"; "two of them, {number}, came"'
    return f"{number:08d} {file} n 01 thing_{number} 0 000 | some {kind} called {number}; {use}  "


def _verb(number: int) -> str:
    gloss = f'to do {number}; "they did it {number} times over"'
    return f"{number:08d} 30 v 01 do_{number} 0 000 01 + 01 00 | {gloss}  "


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    with in_float32():
        yield


@pytest.fixture(scope="session")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive."""
    path = tmp_path_factory.mktemp("wordnet") / "wordnet.tgz"
    licence = "  1 This line is the licence's.  "
    with tarfile.open(path, "w:gz") as archive:
        for part, line in (("noun", _noun), ("verb", _verb)):
            text = "\n".join([licence, *map(line, range(NUM_NOUNS))]) + "\n"
            entry = tarfile.TarInfo(f"package/dict/data.{part}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path
