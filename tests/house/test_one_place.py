"""One fact, one place: the NF4 table stands in one file per language."""

import pytest

from house.tree import LANGUAGES, code, read
from qlora_kernels.formats.codebooks import NF4


def places(text_of: dict[str, str]) -> list[str]:
    """The files that write down a value of the table, whatever the precision."""
    digits = repr(NF4[9]).lstrip("0")[:7]
    return [name for name, text in text_of.items() if digits in text]


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_nf4_table_per_language(language: str):
    assert len(places({str(file): read(file) for file in code(language)})) <= 1


def test_a_second_table_is_found():
    short = " ".join(f"{value:.7f}f," for value in NF4)
    assert places({"a.h": short, "b.py": repr(NF4), "c.h": "1.0"}) == ["a.h", "b.py"]
