"""One fine-tune of the demo: its data, its recipe, its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qlora.demo.intents import Parts, Row, make_rows, write_rows
from qlora.train.settings import TrainSettings

# Whose versions decide the demo's numbers.
PACKAGES = ("qlora_kernels", "torch", "transformers", "hassil", "home-assistant-intents")

STEPS = 80
SENTENCES_PER_STEP = 36  # of about 14 tokens, the intent included; a step takes 512


@dataclass(frozen=True)
class Experiment:
    """`model` fine-tuned with `steps` steps in `folder`; the format "none" is 16-bit LoRA."""

    model: Path
    folder: Path
    seed: int = 0
    steps: int = STEPS
    format: Literal["nf4", "none"] = "nf4"

    def data(self, part: str) -> Path:
        """The file of `train`, `validation` or `test`."""
        return self.folder / "data" / f"{part}.jsonl"

    def write_data(self) -> Parts[Row]:
        """Make the sentences and write the three files; every sentence is trained on about once."""
        rows = make_rows(self.seed, SENTENCES_PER_STEP * self.steps)
        for part, members in vars(rows).items():
            write_rows(members, self.data(part))
        return rows

    @property
    def settings(self) -> TrainSettings:
        """The recipe; what is not said here is the trainer's default (rank 16 on all layers).

        What would follow the number of sentences is said: its record is to stay the same.
        """
        return TrainSettings(
            model=self.model,
            data=self.data("train"),
            validation=self.data("validation"),
            output=self.folder / "training",
            format=self.format,
            sequence_length=128,
            batch_size=4,
            steps=self.steps,
            dropout=0.05,
            learning_rate=1e-3,  # 5 times what large models take: a small one, a short run
            lora_plus_ratio=1.0,
            weight_decay=0.01,
            warmup=0.1,
            # Before and after only: the rate falls to 0, so the end is best, and to choose among
            # earlier adapters by so few validation sentences would be to choose by luck.
            evaluate_every=self.steps,
            save_every=self.steps,
            patience=0,
            seed=self.seed,
        )
