"""What a run is made of, and where it writes. Nothing here changes while it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.nn import Parameter
from transformers import PreTrainedModel

from qlora.data import Example
from qlora.guard.watch.update_ratio import UpdateMeter
from qlora.lint import Notice
from qlora.train.identity import Identity
from qlora.train.methods.method import Method
from qlora.train.order import RowOrder
from qlora.train.settings import TrainSettings

Rows = Sequence[Sequence[Example]]


@dataclass(frozen=True)
class RunFiles:
    """The files of a run folder."""

    folder: Path

    @property
    def adapter(self) -> Path:
        """The adapter with the best validation loss, or the final one without validation."""
        return self.folder / "adapter"

    @property
    def last_good(self) -> Path:
        """The adapter before a step that diverged."""
        return self.folder / "adapter-last-good"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per row."""
        return self.folder / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of event files."""
        return self.folder / "tensorboard"

    @property
    def plot(self) -> Path:
        """Loss and gradient norm."""
        return self.folder / "curves.png"

    @property
    def settings(self) -> Path:
        """All settings; `qlora train --config` reads them."""
        return self.folder / "settings.yaml"


@dataclass(frozen=True, eq=False)
class Run:
    """A model ready to train and the data it trains on."""

    settings: TrainSettings
    files: RunFiles
    model: PreTrainedModel
    method: Method
    optimizer: torch.optim.Optimizer
    rows: Rows
    validation: Rows
    order: RowOrder
    steps: int
    pad_id: int
    identity: Identity
    by_recipe: tuple[str, ...] = ()  # the settings that followed the data
    notices: tuple[Notice, ...] = ()  # what lints found in the data and the settings

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What is trained."""
        return self.method.parameters

    @cached_property
    def update_meter(self) -> UpdateMeter:
        """Of what is trained."""
        return UpdateMeter(self.parameters.values())

    @property
    def evaluate_every(self) -> int:
        """Steps between validations: by default a tenth of the run, an epoch at most."""
        tenth = max(1, self.steps // 10)
        return self.settings.evaluate_every or min(tenth, self.order.steps_per_epoch)

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return self.settings.save_every or self.evaluate_every
