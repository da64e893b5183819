"""The study's record: every judgement, where it comes from, and the page made of it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.merging.plot import plot
from bench.merging.table import page
from bench.merging.tasks import SKILLS, Task, make_task
from bench.merging.train import Trained
from bench.merging.wordnet import REQUIREMENT, SHA256
from qlora.demo.experiment import PACKAGES
from qlora.provenance import provenance
from qlora_kernels.files import write_text

Judgements = list[dict[str, Any]]


def write_record(
    folder: Path,
    trained: Sequence[Trained],
    judged: dict[str, Judgements],
    wordnet: Path,
) -> Path:
    """Write record.json, README.md and skills.png into `folder`; returns the first."""
    tasks = {name: make_task(name, 0, 1, wordnet) for name in SKILLS}
    record = {
        **provenance(PACKAGES),
        "wordnet": {"package": REQUIREMENT, "sha256": SHA256},
        "test_rows": {name: len(tasks[name].test) for name in SKILLS},
        "majority": {name: majority(tasks[name]) for name in SKILLS},
        "trained": [asdict(one) for one in trained],
        **judged,
    }
    folder.mkdir(parents=True, exist_ok=True)
    plot(record, folder / "skills.png")
    write_text(folder / "README.md", page(record))
    return write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")


def majority(task: Task) -> float:
    """Share of the test rows that have the commonest answer of the test rows: an upper bound."""
    [(_, count)] = Counter(row.completion for row in task.test).most_common(1)
    return count / len(task.test)
