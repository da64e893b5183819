"""One experiment: a task, settings, and what is done to it. `table.py` lists them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.doctor.tasks import Rows, Task
from qlora.doctor.diagnosis import Cause
from qlora.train.settings import TrainSettings

Change = Callable[[Rows, TrainSettings], Rows]
Injection = Callable[[], AbstractContextManager[None]]

RECIPE: Mapping[str, Any] = {
    "sequence_length": 64,
    "batch_size": 16,
    "packing": False,  # a row is an example: a batch of the poisoned run is what it should be
    "steps": 150,
    "learning_rate": 3e-3,  # a small model, a short run
    "rank": 16,
    "alpha": 32.0,
    "lora_plus_ratio": 1.0,
    "max_norm": 1.0,
    "weight_decay": 0.01,
    "warmup": 0.05,
    "dropout": 0.0,
    "evaluate_every": 15,
    "save_every": 150,
    "keep": 1,
    "patience": 0,
}


@dataclass(frozen=True)
class Experiment:
    """A run of `task` with `settings` over RECIPE; healthy where `cause` is None.

    twin: the healthy experiment that shows what the fault costs.
    change: what happens to the data. injection: what happens to the program.
    trainer: `hugging-face` leaves a trainer_state.json and nothing else to the doctor.
    """

    name: str
    title: str
    task: Task
    num_train: int
    cause: Cause | None = None
    twin: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Change | None = None
    injection: Injection = nullcontext
    trainer: Literal["qlora", "hugging-face"] = "qlora"


@dataclass(frozen=True)
class Trial:
    """An experiment with a seed, in a folder of its own."""

    experiment: Experiment
    seed: int
    base: Path
    root: Path

    @property
    def folder(self) -> Path:
        """Where data, run and outcome lie."""
        return self.root / f"{self.experiment.name}-seed-{self.seed}"

    @property
    def settings(self) -> TrainSettings:
        """Of the run."""
        data = self.folder / "data"
        return TrainSettings(
            model=self.base,
            data=data / "train.jsonl",
            validation=data / "validation.jsonl",
            output=self.folder / "run",
            resume="auto",
            seed=self.seed,
            **{**RECIPE, **self.experiment.settings},
        )

    def write_data(self) -> None:
        """The rows, changed as the experiment says."""
        rows = self.experiment.task(self.seed, self.experiment.num_train)
        if self.experiment.change:
            rows = self.experiment.change(rows, self.settings)
        rows.write(self.folder / "data")
