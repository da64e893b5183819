"""The demo's data: utterance -> intent, tested on sentences whose templates were never trained on.

    templates --split--> train | validation | test --expand--> rows {"prompt", "completion"}

Sentences of one template differ in their words only, so a split of sentences would test memory.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Generic, TypeVar

from qlora.demo.sentences import Grammar, Template
from qlora_kernels.files import write_text

T = TypeVar("T")

# Shares of each intent's templates, rounded: an intent of 3 templates or fewer is only trained on.
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.05
HELD_OUT_ROWS = 2  # sentences per template of validation and test
HELD_OUT_SEED = 2026  # every seed of training meets the same held-out sentences
ATTEMPTS = 20  # draws before a template counts as having no further new sentence


@dataclass(frozen=True)
class Row:
    """One example: what is said, the intent that it means, and the template it came from."""

    utterance: str
    intent: str
    template: Template

    @property
    def prompt(self) -> str:
        """What the model reads."""
        return f"{self.utterance} ->"

    @property
    def completion(self) -> str:
        """What it should write; the blank belongs to it, as in any text's tokens."""
        return f" {self.intent}"


@dataclass(frozen=True)
class Parts(Generic[T]):
    """The three parts of a split."""

    train: list[T]
    validation: list[T]
    test: list[T]


def make_rows(seed: int, num_train_rows: int) -> Parts[Row]:
    """Rows of all three parts; no utterance occurs twice, in one part or in two.

    `seed` chooses the training sentences. The split and the held-out sentences never change.
    """
    grammar, used = Grammar(), set[str]()
    split = split_templates(grammar.templates(), HELD_OUT_SEED)
    fixed = Random(HELD_OUT_SEED)
    test, validation = (
        list(_expand(grammar, sorted(part * HELD_OUT_ROWS, key=_name), fixed, used))
        for part in (split.test, split.validation)
    )
    random = Random(seed)
    rounds = _shuffled_rounds(split.train, random)
    train = list(islice(_expand(grammar, rounds, random, used), num_train_rows))
    return Parts(train, validation, test)


def split_templates(templates: Iterable[Template], seed: int) -> Parts[Template]:
    """Each template in one part; every intent has a template in train."""
    by_intent: dict[str, list[Template]] = defaultdict(list)
    for template in templates:
        by_intent[template.intent].append(template)
    parts: Parts[Template] = Parts([], [], [])
    random = Random(seed)
    for members in by_intent.values():
        random.shuffle(members)
        num_test = round(TEST_SHARE * len(members))
        num_held_out = num_test + round(VALIDATION_SHARE * len(members))
        parts.test.extend(members[:num_test])
        parts.validation.extend(members[num_test:num_held_out])
        parts.train.extend(members[num_held_out:])
    return parts


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    """Write rows as the JSON lines that `qlora train --data` reads."""
    fields = ({"prompt": row.prompt, "completion": row.completion} for row in rows)
    return write_text(path, "".join(f"{json.dumps(field)}\n" for field in fields))


def _expand(
    grammar: Grammar, templates: Iterable[Template], random: Random, used: set[str]
) -> Iterator[Row]:
    """A new sentence for each template in turn; one that has none left is passed over."""
    for template in templates:
        for _ in range(ATTEMPTS):
            utterance = grammar.sentence(template, random)
            if utterance not in used:
                used.add(utterance)
                yield Row(utterance, template.intent, template)
                break


def _shuffled_rounds(templates: list[Template], random: Random) -> Iterator[Template]:
    """Every template once, in random order, then again, without end."""
    for members in cycle([templates]):
        yield from random.sample(members, len(members))


def _name(template: Template) -> tuple[str, str]:
    return template.intent, template.text
