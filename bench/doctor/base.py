"""The base of all runs: the test fixture, taught in full to end its rows.

The fixture has only read plays, so its end-of-text token has an embedding that nothing trained: no
adapter could learn to end a row. A base for fine-tuning can, so this one is given that first.
"""

from pathlib import Path
from random import Random

from bench.doctor.tasks import Row, write_rows
from qlora.train.settings import TrainSettings
from qlora.train.trainer import train

FIXTURES = Path("tests/fixtures")
FIXTURE = FIXTURES / "tiny_shakespeare_llama"
TIMES = 4  # each line is cut at so many places
MAX_WORDS = 3  # of a completion
HELD_OUT = 60


def make_base(root: Path, steps: int = 150) -> Path:
    """The model's folder, made once: full fine-tuning on the beginnings of Shakespeare's lines."""
    base = root / "base" / "run" / "adapter"  # of a full fine-tune: the whole model
    if base.exists():
        return base
    rows = beginnings()
    data = root / "base" / "data"
    train(
        TrainSettings(
            model=FIXTURE,
            data=write_rows(rows[HELD_OUT:], data / "train.jsonl"),
            validation=write_rows(rows[:HELD_OUT], data / "validation.jsonl"),
            output=root / "base" / "run",
            resume="auto",
            method="full",
            format="none",
            packing=False,
            sequence_length=64,
            batch_size=16,
            steps=steps,
            learning_rate=1e-3,
            weight_decay=0.01,
            evaluate_every=steps,
            save_every=steps,
            patience=0,
        )
    )
    return base


def beginnings() -> list[Row]:
    """The first words of a line, and a few of the next."""
    random = Random("base")
    lines = (FIXTURES / "sonnets.txt").read_text(encoding="utf-8").splitlines()
    rows = []
    for line in TIMES * [line.split() for line in lines if line.strip()]:
        cut = random.randrange(1, len(line))
        end = cut + random.randint(1, MAX_WORDS)
        rows.append(Row(" ".join(line[:cut]), " " + " ".join(line[cut:end])))
    random.shuffle(rows)
    return rows
