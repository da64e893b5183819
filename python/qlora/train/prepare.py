"""From settings to a run that is ready to train. Nothing is written here."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.nn import Parameter
from transformers import PreTrainedModel

from qlora.data import Example, pack, read_examples
from qlora.data.encode import pad_token
from qlora.data.split import held_out, num_held_out
from qlora.lint import Notice
from qlora.models import load_model
from qlora.objective import vocabulary_size
from qlora.probe import check_model
from qlora.recipe.rules import NAMES
from qlora.train import checkpoint, randomness
from qlora.train.checkpoint import Manifest
from qlora.train.from_adapter import adapter_digest, start_from
from qlora.train.identity import data_digest, identity
from qlora.train.lints import lint_run
from qlora.train.methods import make_method
from qlora.train.optimizer import build_optimizer
from qlora.train.order import RowOrder
from qlora.train.replay import Replay
from qlora.train.resume import Place
from qlora.train.run import Rows, Run
from qlora.train.settings import TrainSettings
from qlora.train.state import TrainState
from qlora_kernels.errors import InputError

Examples = list[Example]
Parameters = Mapping[str, Parameter]


def prepare(settings: TrainSettings, place: Place) -> tuple[Run, TrainState, int]:
    """Load, quantize and check everything; (run, state, bytes of metrics.jsonl to keep).

    The model is in train mode, else dropout and recomputed activations would do nothing.
    """
    randomness.seed_all(settings.seed)
    model, tokenizer = load_model(settings.model)
    training, validation = read_sets(settings, tokenizer, vocabulary_size(model))
    by_recipe = tuple(name for name in NAMES if getattr(settings, name) is None)
    settings = settings.following(num_examples(settings, training, validation))
    old, old_held = read_replay(settings, tokenizer, vocabulary_size(model), len(validation))
    method = make_method(model, tokenizer, settings)
    if settings.from_adapter:
        start_from(model, settings.from_adapter)
    check_model(model, settings.sequence_length, settings.packing)
    if settings.gradient_checkpointing:
        recompute_activations(model)
    rows, order = _arrange(settings, training, old)
    steps = settings.steps or math.ceil(settings.epochs * order.steps_per_epoch)
    held = [*validation, *old_held]
    mine = identity(settings, steps, model, (training, held))
    mine |= _origin(settings, method.parameters, old)
    manifest = None
    notices: tuple[Notice, ...] = ()
    if place.checkpoint is None:  # else its run has told them
        notices = lint_run(settings, model, tokenizer, (training, validation))
    else:
        manifest = checkpoint.read_manifest(place.checkpoint)
        checkpoint.check_identity(place.checkpoint, manifest.identity, mine)
        method.load(place.checkpoint / "adapter")
    run = Run(
        settings=settings,
        files=place.files,
        model=model,
        method=method,
        optimizer=build_optimizer(settings, method.parameters, place.files.folder),
        rows=rows,
        validation=make_rows(settings, held),
        order=order,
        steps=steps,
        pad_id=pad_token(tokenizer),
        identity=mine,
        by_recipe=by_recipe,
        notices=notices,
    )
    model.train()
    return (run, *_resume(run, place, manifest))


def read_sets(
    settings: TrainSettings, tokenizer: object, vocabulary: int
) -> tuple[Examples, Examples]:
    """Training and validation examples; a split is drawn from the seed, in file order."""
    length = settings.sequence_length
    examples = read_examples(settings.data, tokenizer, length, vocab_size=vocabulary)
    if settings.validation:
        path = settings.validation
        return examples, read_examples(path, tokenizer, length, vocab_size=vocabulary)
    if not settings.validation_split:
        return examples, []
    held = num_held_out(len(examples), settings.validation_split)
    if held >= len(examples):
        raise InputError(
            f"train: validation_split should leave examples to train on, was"
            f" {settings.validation_split} of {len(examples)} (0 trains without validation)"
        )
    chosen = set(held_out(len(examples), held, settings.seed))
    training = [example for i, example in enumerate(examples) if i not in chosen]
    return training, [examples[i] for i in sorted(chosen)]


def read_replay(
    settings: TrainSettings, tokenizer: object, vocabulary: int, new_held: int
) -> tuple[Examples, Examples]:
    """Old examples to train on, and those to validate on beside `new_held` new ones.

    A validation file is taken as it is: its share of old examples is its author's choice.
    """
    if settings.replay is None:
        return [], []
    replay, length = Replay.read(settings.replay), settings.sequence_length
    old = read_examples(replay.path, tokenizer, length, vocab_size=vocabulary)
    return replay.split(old, 0 if settings.validation else new_held, settings.seed)


def _arrange(settings: TrainSettings, new: Examples, old: Examples) -> tuple[Rows, RowOrder]:
    """New rows, then old ones, and the order that draws from both."""
    rows, old_rows = make_rows(settings, new), make_rows(settings, old)
    order = RowOrder(len(rows), settings.batch_size * settings.accumulate, settings.seed)
    if settings.replay:
        drawn = Replay.read(settings.replay).rows_an_epoch(new, old, len(old_rows))
        order = replace(order, old_rows=len(old_rows), replayed=drawn)
    return [*rows, *old_rows], order


def _origin(settings: TrainSettings, parameters: Parameters, old: Examples) -> dict[str, Any]:
    """What a run's identity says of its past; nothing where it has none."""
    told: dict[str, Any] = {}
    if settings.from_adapter:
        told["starting adapter (digest)"] = adapter_digest(parameters)
    if settings.replay:
        told["replay share"] = Replay.read(settings.replay).share
        told["replay data (digest)"] = data_digest(old)
    return told


def num_examples(settings: TrainSettings, training: Examples, validation: Examples) -> int:
    """Of the data file, with what was split off for validation, so that nobody need split first."""
    return len(training) + (0 if settings.validation else len(validation))


def make_rows(settings: TrainSettings, examples: Examples) -> Rows:
    """Packed rows, or one example a row."""
    if settings.packing:
        return pack(examples, settings.sequence_length, settings.seed)
    return [[example] for example in examples]


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep one hidden state per decoder layer and compute the rest again in backward.

    Random states are restored for that, so dropout is the same.
    """
    name = "activation_checkpointing_enable"  # since transformers 5.23; before, the other
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _resume(run: Run, place: Place, manifest: Manifest | None) -> tuple[TrainState, int]:
    """State and length of metrics.jsonl; the random generators come last, just before training."""
    if manifest is None or place.checkpoint is None:
        return TrainState(), 0
    checkpoint.load_optimizer(place.checkpoint, run)
    checkpoint.restore_best(place.checkpoint, run.files)
    randomness.restore(manifest.randomness)
    return manifest.state, manifest.metrics_bytes
