"""The adapters of the study and how each is trained."""

from dataclasses import dataclass
from pathlib import Path

from qlora.train.settings import TrainSettings

# Training rows in a step, by task: what fills its 4 x 128 tokens, so that each is seen about once.
ROWS_PER_STEP = {"intents": 36, "categories": 30, "both": 32, "short": 34, "long": 17}
STEPS = {"intents": 60, "categories": 60, "both": 60, "short": 40, "long": 40}


@dataclass(frozen=True)
class Recipe:
    """One adapter: its task, its seed, and `share` of the full number of steps (a trial: < 1)."""

    model: Path
    root: Path
    task: str
    seed: int
    share: float = 1.0

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return max(1, round(self.share * STEPS[self.task]))

    @property
    def num_rows(self) -> int:
        """Training rows, each seen about once."""
        return self.steps * ROWS_PER_STEP[self.task]

    @property
    def folder(self) -> Path:
        """Where data, training and adapter of this one lie."""
        return self.root / f"{self.task}-seed-{self.seed}"

    @property
    def data(self) -> Path:
        """The training rows."""
        return self.folder / "train.jsonl"

    @property
    def settings(self) -> TrainSettings:
        """`make demo`'s recipe: rank 16 on all linear layers, and nothing held out of the rows."""
        return TrainSettings(
            model=self.model,
            data=self.data,
            validation_split=0,
            output=self.folder / "training",
            resume="auto",
            sequence_length=128,
            batch_size=4,
            steps=self.steps,
            dropout=0.05,
            learning_rate=1e-3,
            lora_plus_ratio=1.0,
            weight_decay=0.01,
            warmup=0.1,
            save_every=20,
            keep=1,
            patience=0,
            seed=self.seed,
        )
