"""Train the study's adapters, each once: a finished one is kept, an interrupted one goes on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from bench.merging.recipe import Recipe
from bench.merging.tasks import make_task, write_rows
from qlora.provenance import commit
from qlora.train.trainer import train
from qlora_kernels.files import write_text


@dataclass(frozen=True)
class Trained:
    """A finished adapter and what it took."""

    task: str
    seed: int
    steps: int
    num_rows: int
    seconds: float
    commit: str | None
    adapter: str


def trained(recipe: Recipe, wordnet: Path, console: Console) -> Trained | None:
    """The adapter of `recipe`, trained now if it is not yet; None where that was interrupted."""
    done = recipe.folder / "trained.json"
    if done.exists():
        return Trained(**json.loads(done.read_text(encoding="utf-8")))
    console.print(f"\n{recipe.task}, seed {recipe.seed}: {recipe.steps} steps", style="bold")
    task = make_task(recipe.task, recipe.seed, recipe.num_rows, wordnet)
    write_rows(task.train, recipe.data)
    result = train(recipe.settings, console)
    if result.signal or result.adapter is None:
        return None
    outcome = Trained(
        recipe.task,
        recipe.seed,
        result.steps,
        len(task.train),
        round(result.seconds, 1),
        commit(),
        str(result.adapter),
    )
    write_text(done, json.dumps(asdict(outcome)) + "\n")
    return outcome
