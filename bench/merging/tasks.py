"""What the adapters are taught: prompts with answers, held-out ones the same for every seed.

intents      "turn on the lamp ->"                        " HassTurnOn"         (Home Assistant)
categories   "a small plant ... Kind of thing:"           " plant"              (WordNet)
both         half of each
short        "Define lamp:"    " a piece of furniture ..."
long         "Define lamp:"    " a piece of furniture ... For example: ..."
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.merging.wordnet import Synset, synsets
from qlora.demo.intents import make_rows
from qlora_kernels.files import write_text

SKILLS = ("intents", "categories")
STYLES = ("short", "long")
SPLIT_SEED = 2026
NUM_TEST = {"categories": 200, "short": 100, "long": 100}
MIN_WORDS, MAX_WORDS = 3, 14  # of a definition
MAX_EXAMPLE_WORDS = 30
TEXT_SENTENCES = 60


@dataclass(frozen=True)
class Row:
    """One example as the trainer reads it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Task:
    """Rows of training and of the test, none in both."""

    train: list[Row]
    test: list[Row]


def make_task(name: str, seed: int, num_rows: int, wordnet: Path) -> Task:
    """`num_rows` training rows that `seed` draws; the test rows never change."""
    if name == "intents":
        parts = make_rows(seed, num_rows)
        return Task(
            [Row(row.prompt, row.completion) for row in parts.train],
            [Row(row.prompt, row.completion) for row in parts.test],
        )
    if name == "both":
        intents, kinds = (make_task(n, seed, num_rows // 2, wordnet) for n in SKILLS)
        return Task(intents.train + kinds.train, intents.test + kinds.test)
    rows = categories(wordnet) if name == "categories" else definitions(wordnet, name)
    Random(SPLIT_SEED).shuffle(rows)
    test, train = rows[: NUM_TEST[name]], rows[NUM_TEST[name] :]
    return Task(Random(seed).sample(train, num_rows), test)


def categories(wordnet: Path) -> list[Row]:
    """What kind of thing a noun's definition describes: 25 kinds."""
    chosen = {s.definition: s for s in synsets(wordnet, "noun") if s.category and _fits(s)}
    return [Row(f"{s.definition}. Kind of thing:", f" {s.category}") for s in chosen.values()]


def definitions(wordnet: Path, style: str) -> list[Row]:
    """Words with their definition, and in the style "long" with the examples of their use.

    Both styles have the same prompts in the same order, and the same first sentence.
    """
    known = {s.word: s for s in synsets(wordnet, "noun") if s.examples and _fits(s)}
    rows = []
    for s in known.values():
        more = f" For example: {'; '.join(s.examples)}." if style == "long" else ""
        rows.append(Row(f"Define {s.word}:", f" {s.definition}.{more}"))
    return rows


def plain_text(wordnet: Path, seed: int = SPLIT_SEED) -> str:
    """Sentences that none of the tasks trains on: the examples of verbs, drawn by `seed`."""
    sentences = [
        example
        for s in synsets(wordnet, "verb")
        for example in s.examples
        if MIN_WORDS < len(example.split()) <= MAX_EXAMPLE_WORDS
    ]
    return "\n".join(Random(seed).sample(sentences, TEXT_SENTENCES)) + "\n"


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    """Write the JSON lines that `qlora train` and `qlora evaluate` read."""
    fields = ({"prompt": row.prompt, "completion": row.completion} for row in rows)
    return write_text(path, "".join(f"{json.dumps(field)}\n" for field in fields))


def _fits(synset: Synset) -> bool:
    words = len(synset.definition.split())
    return MIN_WORDS <= words <= MAX_WORDS and all(
        len(example.split()) <= MAX_EXAMPLE_WORDS for example in synset.examples
    )
