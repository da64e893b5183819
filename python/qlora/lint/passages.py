"""A data file as passages to compare: a row of .jsonl, a paragraph of .txt."""

import hashlib
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qlora.data.rows import Row, read_rows

BLANK_LINE = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Passage:
    """A text and where it stands: `source` as messages name it, "train.jsonl line 7"."""

    source: str
    text: str
    is_paragraph: bool = False  # of a .txt file

    @property
    def place(self) -> str:
        """Within its file: "line 7"."""
        return "line " + self.source.rpartition(" line ")[2]

    @cached_property
    def exact(self) -> bytes:
        """Equal where texts are."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).digest()

    @cached_property
    def near(self) -> bytes:
        """Equal where texts differ in case and blanks alone."""
        plain = " ".join(self.text.casefold().split())
        return hashlib.blake2b(plain.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Passages:
    """A training file, and what is held out: of another file, or some of the same (`split`)."""

    file: Sequence[Passage]
    training: Sequence[Passage]
    validation: Sequence[Passage] = ()
    split: bool = False

    @staticmethod
    def apart(training: Sequence[Passage], validation: Sequence[Passage] = ()) -> "Passages":
        """Of two files, or of one that nothing is held out of."""
        return Passages(training, training, validation)

    @staticmethod
    def parted(passages: Sequence[Passage], held_out: Container[str]) -> "Passages":
        """One file, split by the sources of the examples that are held out."""
        held = [passage for passage in passages if passage.source in held_out]
        rest = [passage for passage in passages if passage.source not in held_out]
        return Passages(passages, rest, held, split=True)


def read_passages(path: Path) -> list[Passage]:
    """In file order; raises InputError as `read_rows` does."""
    rows = list(read_rows(path))
    if path.suffix == ".txt":
        return [passage for _, row in rows for passage in _paragraphs(str(path), row["text"])]
    return [Passage(source, row_text(row)) for source, row in rows]


def row_text(row: Row) -> str:
    """All that a row says, in its order; who says it is not part of it."""
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"])
    return "\n".join(row.values())


def _paragraphs(path: str, text: str) -> Iterator[Passage]:
    """What stands between blank lines, with the line that it begins in."""
    line, start = 1, 0
    for end in [*(match.start() for match in BLANK_LINE.finditer(text)), len(text)]:
        paragraph = text[start:end]
        if paragraph.strip():
            blank = paragraph[: len(paragraph) - len(paragraph.lstrip())]
            first = line + blank.count("\n")
            yield Passage(f"{path} line {first}", paragraph.strip(), is_paragraph=True)
        line += paragraph.count("\n")
        start = end
