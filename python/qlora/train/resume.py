"""Where a run lives, and the checkpoint that it goes on from."""

from dataclasses import dataclass
from pathlib import Path

from qlora.train.checkpoint import MANIFEST, latest
from qlora.train.run import RunFiles
from qlora.train.settings import TrainSettings
from qlora_kernels.errors import InputError


@dataclass(frozen=True)
class Place:
    """A run folder and, when resuming, one of its checkpoints."""

    files: RunFiles
    checkpoint: Path | None


def find_place(settings: TrainSettings) -> Place:
    """Follow `resume`; raises InputError for a folder without checkpoints and for one in use.

    `auto` goes on from the latest checkpoint of the output folder, or begins anew without any.
    """
    if settings.resume is None:
        return Place(_unused(settings), None)
    if settings.resume == "auto":
        files = RunFiles(settings.folder)
        return Place(files, latest(files.checkpoints))
    given = Path(settings.resume)
    chosen = given if (given / MANIFEST).exists() else latest(RunFiles(given).checkpoints)
    if chosen is None:
        raise InputError(f"resume: should be auto, a checkpoint or a run with one, was {given}")
    run_folder = chosen.resolve().parents[1]
    if settings.output and settings.output.resolve() != run_folder:
        raise InputError(
            f"resume: output should be the checkpoint's run {run_folder}, was {settings.output}"
        )
    return Place(RunFiles(settings.output or given if given != chosen else run_folder), chosen)


def _unused(settings: TrainSettings) -> RunFiles:
    files = RunFiles(settings.folder)
    if files.folder.exists() and not files.folder.is_dir():
        raise InputError(f"train: output should be a folder, was the file {files.folder}")
    if files.metrics.exists() or files.checkpoints.exists():
        raise InputError(
            f"train: output should be a new folder, was {files.folder}, which holds a run"
            " (--resume auto goes on with it)"
        )
    return files
