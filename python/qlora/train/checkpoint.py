"""Checkpoints: all that a run needs to go on as if it had never stopped, bit for bit.

    checkpoints/checkpoint-000120/
        adapter/                 the current adapter, in peft's format
        best/                    the adapter with the best validation loss so far
        optimizer.safetensors    NAME/STATE of every adapter parameter
        checkpoint.json          state, identity, random generators, length of metrics.jsonl

The data position is the step itself. A folder is whole or absent. Nothing here is a pickle.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qlora.train import randomness
from qlora.train.identity import Identity, differences
from qlora.train.run import Run, RunFiles
from qlora.train.state import TrainState
from qlora_kernels.errors import InputError
from qlora_kernels.files import whole_folder

PREFIX, MANIFEST, OPTIMIZER = "checkpoint-", "checkpoint.json", "optimizer.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What checkpoint.json holds."""

    state: TrainState
    identity: Identity
    randomness: randomness.State
    metrics_bytes: int


def save(run: Run, state: TrainState, metrics_bytes: int) -> Path:
    """Write the checkpoint of now and drop old ones."""
    folder = run.files.checkpoints / f"{PREFIX}{state.step:06d}"
    manifest = Manifest(state, run.identity, randomness.capture(), metrics_bytes)
    with whole_folder(folder) as temporary:
        run.method.save(temporary / "adapter")
        if run.files.adapter.exists():
            shutil.copytree(run.files.adapter, temporary / "best")
        save_file(_optimizer_tensors(run), temporary / OPTIMIZER)
        (temporary / MANIFEST).write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    _drop_old(run.files.checkpoints, run.settings.keep, state.step - state.watched.steps_away)
    return folder


def latest(folder: Path, step: int | None = None) -> Path | None:
    """The last checkpoint of a folder of checkpoints, of those up to `step` if it is given."""
    return max(_up_to(step, folder), key=_step_of, default=None)


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """Copy the adapter that was current at a checkpoint, whole or not at all."""
    with whole_folder(folder) as temporary:
        shutil.copytree(checkpoint / "adapter", temporary, dirs_exist_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read checkpoint.json; raises InputError where it cannot be."""
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(**{**values, "state": TrainState.from_json(values["state"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"resume: {folder / MANIFEST} should be readable: {error}") from error


def check_identity(folder: Path, then: Identity, now: Identity) -> None:
    """Refuse to go on with other settings, data or another model."""
    if differ := differences(then, now):
        raise InputError(f"resume: to go on from {folder}, {differ}")


def load_optimizer(folder: Path, run: Run) -> None:
    """Give every parameter its optimizer state back."""
    try:
        tensors = load_file(folder / OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise InputError(f"resume: {folder / OPTIMIZER} should be readable: {error}") from error
    numbers = {name: number for number, name in enumerate(_optimizer_names(run))}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        state.setdefault(numbers[name], {})[kind] = tensor
    groups = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": state, "param_groups": groups})


def restore_best(folder: Path, files: RunFiles) -> None:
    """Put the best adapter of a checkpoint back in its place."""
    if (folder / "best").exists():
        with whole_folder(files.adapter) as temporary:
            shutil.copytree(folder / "best", temporary, dirs_exist_ok=True)


def _optimizer_tensors(run: Run) -> dict[str, torch.Tensor]:
    names = _optimizer_names(run)
    return {
        f"{names[number]}/{kind}": value
        for number, values in run.optimizer.state_dict()["state"].items()
        for kind, value in values.items()
    }


def _optimizer_names(run: Run) -> list[str]:
    """The optimizer numbers its states in the order of its groups; names last longer."""
    names = {id(parameter): name for name, parameter in run.parameters.items()}
    return [names[id(p)] for group in run.optimizer.param_groups for p in group["params"]]


def _drop_old(folder: Path, keep: int, good_step: int) -> None:
    """Keep the last ones, and the last of a step up to `good_step`, which a run may fall back to.

    Rename before removing, so that a half-removed checkpoint never looks like one.
    """
    good = latest(folder, good_step)
    for old in sorted(_up_to(None, folder), key=_step_of)[:-keep]:
        if old != good:
            old.rename(folder / f".{old.name}.old")
    for left in folder.glob(".*"):  # also what a killed run left half-written
        shutil.rmtree(left)


def _up_to(step: int | None, folder: Path) -> list[Path]:
    every = list(folder.glob(f"{PREFIX}[0-9]*"))
    return every if step is None else [path for path in every if _step_of(path) <= step]


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))
