"""What the runs are taught: rows made from a seed, with held-out ones of the same kind.

cipher     "the night, of king:" -> " house"       a permutation of words: many directions
facts      "Give the noble heart to the" -> " man" random pairs: only memory answers them
verdicts   "good night man fear life: is it" -> " true" a rule over words, and a tenth of noise
commands   "turn off the lamp ->" -> " HassTurnOff" the demo's sentences, templates held out
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

from bench.doctor.words import COMMON, HOLDERS, QUALITIES, SCRIPTS
from qlora_kernels.files import write_text

NUM_HELD_OUT = 128  # rows of validation, and as many of the exam
CIPHER_WORDS = 40
FACTS = 48
FORMS = (
    "The {} {} is for the",
    "Who shall have the {} {}? The",
    "Give the {} {} to the",
    "Let the {} {} be for the",
)
LENGTH = 5  # words of a verdict
NOISE = 0.1  # of the verdicts are wrong, as annotators are


@dataclass(frozen=True)
class Row:
    """One example as the trainer reads it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Rows:
    """Training, validation (what the trainer sees) and the exam (what the run is judged by)."""

    train: list[Row]
    validation: list[Row]
    exam: list[Row]

    def write(self, folder: Path) -> None:
        """One file each, as `qlora train` reads them."""
        for name, rows in vars(self).items():
            write_rows(rows, folder / f"{name}.jsonl")


Task = Callable[[int, int], Rows]  # (seed, training rows) -> rows


def cipher(seed: int, num_train: int, words: Sequence[str] = COMMON) -> Rows:
    """Every word has a code word; the first word of a row says nothing."""
    random = Random(f"cipher/{seed}")
    words = words[:CIPHER_WORDS]
    code = dict(zip(words, random.sample(words, len(words)), strict=True))
    rows = [Row(f"{idle}, of {word}:", f" {code[word]}") for idle, word in product(words, words)]
    return _split(random.sample(rows, len(rows)), num_train)


def foreign_cipher(seed: int, num_train: int) -> Rows:
    """The same of words in another script, which one by seed."""
    return cipher(seed, num_train, SCRIPTS[seed % len(SCRIPTS)])


def facts(seed: int, num_train: int) -> Rows:
    """Who holds what; each fact is learned in three forms of words and examined in the fourth."""
    random = Random(f"facts/{seed}")
    pairs = random.sample(list(product(QUALITIES, COMMON[:20])), FACTS)
    train, held_out = list[Row](), list[Row]()
    for pair in pairs:
        holder = random.choice(HOLDERS)
        *known, asked = (
            Row(form.format(*pair), f" {holder}") for form in random.sample(FORMS, len(FORMS))
        )
        train += known
        held_out.append(asked)
    return Rows(train[:num_train], held_out, held_out)


def verdicts(seed: int, num_train: int) -> Rows:
    """Each word speaks for or against; the majority decides, but for the noise."""
    random = Random(f"verdicts/{seed}")
    words = COMMON[:CIPHER_WORDS]
    vote = {word: 1 - 2 * (i % 2) for i, word in enumerate(random.sample(words, len(words)))}
    rows = []
    for _ in range(num_train + 2 * NUM_HELD_OUT):
        said = random.sample(words, LENGTH)
        holds = (sum(vote[word] for word in said) > 0) != (random.random() < NOISE)
        rows.append(Row(f"{' '.join(said)}: is it", " true" if holds else " mad"))
    return _split(rows, num_train)


def commands(seed: int, num_train: int) -> Rows:
    """Sentences to a house and what they mean."""
    from qlora.demo.intents import make_rows  # needs the extra [demo]

    parts = make_rows(seed, num_train)
    train, validation, exam = (
        [Row(row.prompt, row.completion) for row in part]
        for part in (parts.train, parts.validation, parts.test)
    )
    return Rows(train, validation[:NUM_HELD_OUT], exam[:NUM_HELD_OUT])


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    """JSON lines."""
    return write_text(
        path, "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in rows)
    )


def _split(rows: list[Row], num_train: int) -> Rows:
    held_out, train = rows[: 2 * NUM_HELD_OUT], rows[2 * NUM_HELD_OUT :]
    return Rows(train[:num_train], held_out[:NUM_HELD_OUT], held_out[NUM_HELD_OUT:])
