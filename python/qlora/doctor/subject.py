"""A finished run, opened again to be measured: model and adapter, and the examples of each set."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from torch import Tensor
from transformers import PreTrainedModel

import qlora_kernels as qk
from qlora.data import Example, read_examples
from qlora.data.encode import pad_token
from qlora.doctor.gradients import LayerGradient, layer_gradients
from qlora.doctor.samples import Budget, sample
from qlora.doctor.token_losses import TokenLosses, token_losses
from qlora.models import load_model
from qlora.objective import vocabulary_size
from qlora.settings import from_sources
from qlora.train import randomness
from qlora.train.checkpoint import MANIFEST, latest
from qlora.train.from_adapter import start_from
from qlora.train.identity import data_digest
from qlora.train.methods import make_method
from qlora.train.methods.method import Method
from qlora.train.order import RowOrder
from qlora.train.prepare import make_rows, read_sets
from qlora.train.run import RunFiles
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError
from qlora_kernels.nn import QLoRALinear

Set = Literal["training", "validation", "recent", "probe"]
Value = TypeVar("Value")
PROBE = Path(__file__).parent / "probe.txt"
PROBE_TOKENS = 64  # of one piece of the probe text: many pieces make a better interval


@dataclass(frozen=True, eq=False)
class Subject:
    """A run as it stood at its end: the last checkpoint's adapter, or the only one.

    Not the adapter with the best validation loss: after a run that only got worse that is the
    untrained one. `initial` holds the adapter parameters as training found them (none where that
    was an adapter that is gone), `adapter_folder` where their values of the end come from. The base
    is the model with adapters disabled (biases and modules that were trained whole stay). Sets are
    read when they are asked for, so that lost data fails only the measurements that need it.
    """

    run: Path
    settings: TrainSettings
    model: PreTrainedModel
    tokenizer: Any
    adapter_folder: Path
    initial: dict[str, Tensor]
    budget: Budget
    recent_file: Path | None = None
    probe_file: Path | None = None
    _kept: dict[tuple[str, bool], Any] = field(default_factory=dict)

    @staticmethod
    def open(
        run: str | Path,
        recent: Path | None = None,
        probe: Path | None = None,
        budget: Budget | None = None,
    ) -> "Subject":
        """Load a run folder's model and adapter; raises InputError where that cannot be.

        The model is made as training made it, from the same seed, which gives the adapter's start.
        """
        files = RunFiles(Path(run))
        settings = _settings(files)
        folder = _adapter_folder(files)
        callers = randomness.capture()
        try:
            randomness.seed_all(settings.seed)
            model, tokenizer = load_model(settings.model)
            method = make_method(model, tokenizer, settings)
        finally:
            randomness.restore(callers)
        initial = _initial(model, method, settings)
        method.load(folder)
        budget = budget or Budget.for_model(qk.nn.describe(model).num_parameters)
        return Subject(
            Path(run), settings, model.eval(), tokenizer, folder, initial, budget, recent, probe
        )

    @property
    def layers(self) -> dict[str, QLoRALinear]:
        """Name -> linear layer, with or without adapter."""
        return qk.nn.quantized_layers(self.model)

    @property
    def adapted(self) -> dict[str, QLoRALinear]:
        """Name -> linear layer with an adapter; InputError where there is none."""
        found = {name: layer for name, layer in self.layers.items() if layer.adapter is not None}
        if not found:
            raise InputError("the run should have adapters on linear layers, has none")
        return found

    @cached_property
    def sets(self) -> tuple[list[Example], list[Example]]:
        """All training and all validation examples, split as training split them.

        Raises InputError where they are not those that the run read.
        """
        found = read_sets(self.settings, self.tokenizer, vocabulary_size(self.model))
        _check_data(self.adapter_folder, self.settings, found)
        return found

    def examples(self, name: Set) -> list[Example]:
        """What the budget allows of a set; InputError for a set that the run does not have."""
        return sample(self.every_example(name), self.budget)

    def every_example(self, name: Set) -> list[Example]:
        """All examples of a set."""
        if name in ("training", "validation"):
            found = self.sets[name == "validation"]
        elif name == "recent" and self.recent_file is None:
            found = []
        else:
            found = self._read(name)
        if not found:
            raise InputError(f"the run should have {name} examples, has none")
        return found

    def examples_of_step(self, step: int) -> list[Example]:
        """What the optimizer step of that number, from 1 on, was trained on."""
        settings, (training, _) = self.settings, self.sets
        rows = make_rows(settings, training)
        if settings.replay is not None:
            raise InputError("the run should be without --replay, to know the rows of a step")
        order = RowOrder(len(rows), settings.batch_size * settings.accumulate, settings.seed)
        return [example for number in order.rows_of(step - 1) for example in rows[number]]

    def losses(self, name: Set, tuned: bool) -> TokenLosses:
        """Of the examples of a set, by the tuned model or the base; computed once."""
        return self.once(
            name, tuned, lambda: token_losses(self.model, self.examples(name), self.pad_id)
        )

    def gradients(self, tuned: bool) -> dict[str, LayerGradient]:
        """Of every linear layer's full weight, on training examples; computed once."""
        examples, seed = self.examples("training"), self.budget.seed
        return self.once(
            "gradients",
            tuned,
            lambda: layer_gradients(self.model, tuned, examples, self.pad_id, seed),
        )

    def once(self, what: str, tuned: bool, compute: Callable[[], Value]) -> Value:
        """Compute with the tuned model, or the base, unless it is kept from the first time."""
        key = (what, tuned)
        if key not in self._kept:
            if tuned:
                self._kept[key] = compute()
            else:
                with qk.nn.disable_adapters(self.model):
                    self._kept[key] = compute()
        return cast(Value, self._kept[key])

    @property
    def pad_id(self) -> int:
        """Fills rows up."""
        return pad_token(self.tokenizer)

    @property
    def probe_name(self) -> str:
        """What the probe text is called in a sentence."""
        return "plain English" if self.probe_file is None else self.probe_file.name

    def _read(self, name: Set) -> list[Example]:
        length = self.settings.sequence_length
        path = self.recent_file if name == "recent" else self.probe_file or PROBE
        if name == "probe":
            length = min(length, PROBE_TOKENS)
        assert path is not None
        return read_examples(path, self.tokenizer, length, vocab_size=vocabulary_size(self.model))


def _settings(files: RunFiles) -> TrainSettings:
    if not files.settings.is_file():
        raise InputError(
            f"doctor: {files.folder} should be a run folder of `qlora train`, has no settings.yaml"
        )
    settings = from_sources(TrainSettings, files.settings, {})
    if settings.method != "lora":
        raise InputError(
            f"doctor: a run should have method lora to be measured, had {settings.method}; its"
            " curves can be read all the same"
        )
    return settings


def _initial(model: PreTrainedModel, method: Method, settings: TrainSettings) -> dict[str, Tensor]:
    """Copies of what training began with; none where it began from an adapter that is gone."""
    if settings.from_adapter is not None:
        try:
            start_from(model, settings.from_adapter)
        except InputError:
            return {}
    return {name: parameter.detach().clone() for name, parameter in method.parameters.items()}


def _check_data(folder: Path, settings: TrainSettings, sets: tuple[list[Example], ...]) -> None:
    """Refuse data that has changed since training read it, as the checkpoint tells."""
    manifest = folder.parent / MANIFEST
    if not manifest.exists():  # a run without a checkpoint
        return
    # Its other parts, which resuming needs, may be those of another version.
    then = json.loads(manifest.read_text(encoding="utf-8"))["identity"]
    for name, path, examples in zip(
        ("training", "validation"), (settings.data, settings.validation), sets, strict=True
    ):
        if name == "validation" and settings.replay is not None:  # whose examples are among them
            continue
        if then[f"{name} data (digest)"] != data_digest(examples):
            raise InputError(
                f"{path or settings.data} should hold the {name} examples that the run read, has"
                " changed since"
            )


def _adapter_folder(files: RunFiles) -> Path:
    checkpoint = latest(files.checkpoints)
    folder = files.adapter if checkpoint is None else checkpoint / "adapter"
    if not folder.exists():
        raise InputError(f"doctor: {files.folder} should hold an adapter, holds none")
    return folder
