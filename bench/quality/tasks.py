"""What is asked: intents of sentences, the next line of Python, plain English.

intents   "turn on the lamp ->"              " HassTurnOn"           (Home Assistant's templates)
python    "    for name in names:\\n ..."     "        if name:"      (the standard library)
english   the examples of WordNet's verbs: nobody trains on them, so they show what is forgotten

Held-out intents are of templates, held-out lines of modules, that no training shows. They are the
same for every seed; the seed draws what is trained on.
"""

import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.merging.tasks import Row, write_rows
from qlora.demo.intents import make_rows

SPLIT_SEED = 2026
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
VALIDATION = 48  # rows of the curve
TEST = {"intents": 254, "python": 120}
HELD_OUT_MODULES = 0.2
CONTEXT = 4  # lines before the one to write
SHORTEST, LONGEST = 12, 60  # characters of a line
LONGEST_CONTEXT = 220  # characters
# Not what people write: tests, tables, and what is made by programs.
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "encodings", "turtledemo", "site-packages")
LEFT_OUT += ("pydoc_data", "__phello__", "dist-packages", "ensurepip", "msilib")


@dataclass(frozen=True)
class Task:
    """Rows that share nothing."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]

    def write(self, folder: Path) -> dict[str, Path]:
        """The three files, as `qlora train` reads them."""
        parts = vars(self).items()
        return {part: write_rows(rows, folder / f"{part}.jsonl") for part, rows in parts}


def make_task(name: str, seed: int, num_train: int) -> Task:
    """`num_train` rows of the task."""
    if name == "intents":
        parts = make_rows(seed, num_train)
        train, validation, test = (
            [Row(row.prompt, row.completion) for row in rows]
            for rows in (parts.train, parts.validation, parts.test)
        )
    else:
        _, others = _split(_modules(LIBRARY))
        train = Random(seed).sample(list(_lines_of(others)), num_train)
        test = held_out_lines(SPLIT_SEED, VALIDATION + TEST[name])
        validation, test = test[:VALIDATION], test[VALIDATION:]
    Random(SPLIT_SEED).shuffle(validation)
    return Task(train, validation[:VALIDATION], test[: TEST[name]])


def held_out_lines(seed: int, count: int) -> list[Row]:
    """Of modules that no training shows."""
    held, _ = _split(_modules(LIBRARY))
    return Random(seed).sample(list(_lines_of(held)), count)


def few_shot(task: Task, seed: int, shots: int, num_rows: int) -> list[Row]:
    """Test rows, each behind `shots` solved ones: the same for all, each of another answer."""
    random = Random(seed)
    solved = {row.completion: row for row in random.sample(task.train, len(task.train))}
    shown = random.sample(list(solved.values()), shots)
    head = "".join(f"{row.prompt}{row.completion}\n" for row in shown)
    return [Row(head + r.prompt, r.completion) for r in random.sample(task.test, num_rows)]


def _modules(library: Path) -> list[Path]:
    return sorted(
        path
        for path in library.rglob("*.py")
        if not set(path.relative_to(library).parts) & set(LEFT_OUT)
    )


def _split(modules: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Held out, and the others."""
    shuffled = Random(SPLIT_SEED).sample(modules, len(modules))
    count = round(HELD_OUT_MODULES * len(modules))
    return shuffled[:count], shuffled[count:]


def _lines_of(modules: Iterable[Path]) -> Iterator[Row]:
    for path in modules:
        yield from next_lines(path.read_text(encoding="utf-8", errors="replace"))


def next_lines(source: str) -> Iterator[Row]:
    """Each line of code with those before it, where none of them is empty or part of a string."""
    lines = [line.rstrip() for line in source.splitlines()]
    for i in range(CONTEXT, len(lines)):
        window, line = lines[i - CONTEXT : i], lines[i]
        text = "\n".join(window)
        fits = len(line.strip()) >= SHORTEST and len(line) <= LONGEST
        is_code = line[:1] == " " and line.lstrip()[:1].isalpha() and not line.endswith(".")
        whole = all(window) and not any(mark in text + line for mark in ('"""', "'''", "#", ">>>"))
        if fits and is_code and whole and len(text) <= LONGEST_CONTEXT and "(" in text + line:
            yield Row(text + "\n", line)
